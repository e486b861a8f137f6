"""The web page and its interface: one server on FastAPI and uvicorn, one static page, one compute worker.

- serving.py: `serve`; http.py: the routes; forms.py: their fields; guard.py: what every request passes first;
  problems.py: refusals in one sentence
- worker.py: one job after another, cancelling, limits, sweeping; store.py: where visitors' files lie
- tasks.py, clip_tasks.py: what a job does; models.py: with what; forecast.py: what it will take: these know the rest
  of scalewise
- static/: the page, as plain files; api_docs.py writes docs/api.md
"""

from scalewise.app.worker import Limits

__all__ = ["Limits"]
