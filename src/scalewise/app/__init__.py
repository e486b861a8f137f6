"""The web page and its HTTP interface: drop a picture, turn two dials, see where the work went.

- work.py: one compute worker with a bounded queue; what a visitor may ask of it
- viewer.py: before, after and the effort map on top of each other; the curve; the style sheet
- page.py: the page, in Gradio
- gate.py: who may ask for what: hosts, origins, a visitor's own files
- http.py: plain HTTP beside it, and `serve`
"""

from scalewise.app.http import serve
from scalewise.app.work import Limits

__all__ = ["Limits", "serve"]
