"""What the page shows beside Gradio's own parts: the viewer, the report, the curve, the style sheet. Plain HTML."""

from __future__ import annotations

from html import escape

from scalewise.app.work import Forecast, Result, sentence
from scalewise.budget.cost import CostReport

STYLE = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
.sw-head { display: flex; align-items: baseline; gap: .8rem; flex-wrap: wrap; }
.sw-head h1 { font-size: 1.35rem; margin: 0; letter-spacing: -.01em; }
.sw-head p, .sw-note { color: color-mix(in srgb, var(--body-text-color) 78%, transparent);
  margin: 0; font-size: .92rem; }
.sw-note { min-height: 1.4em; }
.sw-error { color: var(--error-text-color, #b3261e); font-weight: 600; }
.sw-frame { overflow: auto; max-height: 68vh; border-radius: 8px; background: var(--background-fill-secondary);
  border: 1px solid var(--border-color-primary); }
.sw-stage { position: relative; width: calc(100% * var(--zoom, 1)); line-height: 0; }
.sw-stage img { width: 100%; height: auto; display: block; user-select: none; }
.sw-stage img.sw-after { position: absolute; inset: 0; clip-path: inset(0 0 0 var(--cut, 50%)); }
.sw-stage .sw-clip { position: absolute; inset: 0; overflow: hidden; pointer-events: none; }
.sw-stage img.sw-effort { position: absolute; left: 0; top: 0; max-width: none; image-rendering: pixelated;
  opacity: var(--overlay, 0); mix-blend-mode: normal; }
.sw-stage .sw-line { position: absolute; top: 0; bottom: 0; left: var(--cut, 50%); width: 2px; background: #fff;
  box-shadow: 0 0 0 1px rgba(0,0,0,.45); pointer-events: none; }
.sw-stage .sw-tag { position: absolute; top: .5rem; padding: .15rem .5rem; border-radius: 4px; line-height: 1.3;
  background: rgba(0,0,0,.62); color: #fff; font-size: .78rem; pointer-events: none; }
.sw-controls { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: .4rem 1rem;
  margin-top: .6rem; font-size: .85rem; }
.sw-controls label { display: flex; flex-direction: column; gap: .15rem; color: var(--body-text-color); }
.sw-controls input { width: 100%; accent-color: var(--color-accent); min-height: 24px; }
.sw-report { width: 100%; border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
.sw-report, .sw-report tr, .sw-report th, .sw-report td { border: 0 !important; background: none !important; }
.sw-report tr + tr { border-top: 1px solid var(--border-color-primary) !important; }
.sw-report caption { text-align: left; }
.sw-report th { text-align: left; font-weight: 500; color: color-mix(in srgb, var(--body-text-color) 78%, transparent);
  padding: .2rem .6rem .2rem 0; }
.sw-report td { text-align: right; padding: .2rem 0; color: var(--body-text-color); }
.sw-empty { display: grid; place-items: center; min-height: 300px; border-radius: 8px; text-align: center;
  border: 1px dashed var(--border-color-primary); color: var(--body-text-color-subdued); padding: 1rem; }
.sw-bar { height: 6px; border-radius: 3px; background: var(--border-color-primary); overflow: hidden;
  margin-top: .3rem; }
.sw-bar i { display: block; height: 100%; background: var(--color-accent); }
footer { display: none !important; }
@media (max-width: 640px) { .gradio-container { padding: .5rem !important; } .sw-frame { max-height: 56vh; } }
"""

# Ctrl+V anywhere on the page puts a picture of the clipboard into the file field.
PASTE = """
() => {
  if (window.scalewisePaste) return;
  window.scalewisePaste = true;
  document.addEventListener('paste', (event) => {
    const file = [...(event.clipboardData?.files || [])].find((f) => f.type.startsWith('image/'));
    const field = document.querySelector('#sw-file input[type=file]');
    if (!file || !field) return;
    const held = new DataTransfer();
    held.items.add(file);
    field.files = held.files;
    field.dispatchEvent(new Event('change', { bubbles: true }));
    event.preventDefault();
  });
}
"""

EMPTY = '<div class="sw-empty">The result appears here, beside plain bicubic enlargement.</div>'


def viewer(result: Result, token: str) -> str:
    """Before, after and the effort map, with a slider for each: cut, opacity, zoom."""
    wide, high = result.effort_extent
    set_to = "this.closest('.sw-view').style.setProperty('{}', this.value + '{}')"
    return f"""<div class="sw-view"><div class="sw-frame"><div class="sw-stage">
<img class="sw-before" alt="enlarged by bicubic interpolation" src="results/{token}/{result.before.name}">
<img class="sw-after" alt="enlarged by scalewise" src="results/{token}/{result.after.name}">
<div class="sw-clip"><img class="sw-effort" alt="where the work went" style="width:{wide:.4%};height:{high:.4%}"
 src="results/{token}/{result.effort.name}"></div>
<span class="sw-line"></span><span class="sw-tag" style="left:.5rem">bicubic</span>
<span class="sw-tag" style="right:.5rem">scalewise</span></div></div>
<div class="sw-controls">
<label>Before and after <input class="sw-cut" type="range" min="0" max="100" value="50" step="0.5"
 aria-label="Where the picture is cut between before and after" oninput="{set_to.format("--cut", "%")}"></label>
<label>Effort map <input class="sw-overlay" type="range" min="0" max="1" value="0" step="0.05"
 aria-label="Opacity of the effort map: dark blue is no work, yellow all of it"
 oninput="{set_to.format("--overlay", "")}"></label>
<label>Zoom <input class="sw-zoom" type="range" min="1" max="8" value="1" step="0.1" aria-label="Zoom of the picture"
 oninput="{set_to.format("--zoom", "")}"></label></div></div>"""


def report_table(report: CostReport) -> str:
    rows = [
        ("size", f"{report.size[1]} × {report.size[0]}"),
        ("work", f"{report.macs / 1e9:.3g} GMACs"),
        ("of the full model", f"{report.share:.1%}"),
        ("time", f"{report.seconds:.2f} s"),
        ("memory", f"{report.peak_bytes / 2**20:.0f} MiB"),
        *(("note", note) for note in report.notes),
    ]
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="sw-report"><caption class="sw-note">What it took</caption>{cells}</table>'


def forecast_line(found: Forecast) -> str:
    height, width = found.size
    loss = "" if found.loss is None else f" · about {found.loss:.2f} dB below full effort"
    return note(f"{width} × {height} pixels · about {seconds_text(found.seconds)}{loss}")


def seconds_text(seconds: float) -> str:
    if seconds < 1:
        return "a second"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def progress_line(share: float, elapsed: float) -> str:
    left = elapsed * (1 - share) / share if share > 0.02 else None
    words = f"{share:.0%}" + (f" · about {seconds_text(left)} left" if left is not None else "")
    return (
        f'<div class="sw-note" role="status">{words}<div class="sw-bar"><i style="width:{share:.1%}"></i></div></div>'
    )


def note(text: str) -> str:
    return f'<p class="sw-note" role="status">{escape(text)}</p>'


def error(text: Exception | str) -> str:
    return f'<p class="sw-note sw-error" role="alert">{escape(sentence(text))}</p>'


def curve(points: list[tuple[float, float]]) -> str:
    """Quality against cost as a small drawing: share of the MACs to the right, dB up."""
    if len(points) < 2:
        return note("this model has one level of effort: there is no curve")
    low, high = min(p for _, p in points), max(p for _, p in points)
    span = max(high - low, 0.05)
    place = [(40 + 250 * share, 110 - 90 * (psnr - low) / span) for share, psnr in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in place)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2"><title>{share:.0%}: {psnr:.2f} dB</title></circle>'
        for (x, y), (share, psnr) in zip(place, points, strict=True)
    )
    return f"""<svg viewBox="0 0 310 140" role="img" style="width:100%;max-width:420px"
 aria-label="Quality in dB against the share of the full work, for this picture">
<g fill="currentColor" font-size="10"><text x="40" y="132">share of the work: {points[0][0]:.0%} to {points[-1][0]:.0%}
</text><text x="2" y="24">{high:.2f}</text><text x="2" y="114">{low:.2f}</text><text x="2" y="36">dB</text></g>
<polyline points="{line}" fill="none" stroke="var(--color-accent)" stroke-width="2"/>
<g fill="var(--color-accent)">{dots}</g></svg>"""
