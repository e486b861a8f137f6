// Requests to the server, and what goes wrong in one sentence.

export class Problem extends Error {
  constructor(told, status, retry = 0) {
    super(told.detail || "the server cannot be reached");
    this.field = told.field || null;
    this.status = status;
    this.retry = retry;
  }
}

export async function ask(path, { method = "GET", form = null, token = null, signal = null } = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let body = null;
  if (form) {
    body = new FormData();
    for (const [name, value] of Object.entries(form)) {
      if (value !== null && value !== undefined && value !== "") body.append(name, value);
    }
  }
  let answer;
  try {
    answer = await fetch(path, { method, headers, body, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ detail: "the server cannot be reached: is it still running?" }, 0);
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({ detail: `the server answered ${answer.status}` }));
    throw new Problem(told, answer.status, Number(answer.headers.get("Retry-After")) || 0);
  }
  if (answer.status === 204) return null;
  return (answer.headers.get("Content-Type") || "").includes("json") ? answer.json() : answer.blob();
}

// Calls `tell` with each state of a job until it ends; gives a function that stops listening.
export function follow(id, tell) {
  let source = null, timer = 0, stopped = false;
  const over = (job) => ["done", "failed", "cancelled"].includes(job.state);
  const hear = (job) => {
    if (stopped) return;
    if (over(job)) stop();
    tell(job);
  };
  const stop = () => { stopped = true; clearTimeout(timer); source?.close(); };
  const listen = () => {
    source = new EventSource(`/v1/jobs/${id}/events`);
    source.addEventListener("job", (event) => hear(JSON.parse(event.data)));
    source.onerror = async () => {          // the stream ended or broke: ask, and listen again
      source.close();
      if (stopped) return;
      try {
        hear(await ask(`/v1/jobs/${id}`));
        if (!stopped) timer = setTimeout(listen, 1000);
      } catch (error) {
        if (error.status === 0) { timer = setTimeout(listen, 2000); return; }
        hear({ id, state: "failed", problem: { detail: error.message, field: error.field } });
      }
    };
  };
  listen();
  return stop;
}
