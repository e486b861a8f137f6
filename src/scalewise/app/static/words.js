// Numbers for people.

export const count = (n) => n.toLocaleString("en").replaceAll(",", "\u202f");
export const size = (w, h) => `${count(w)} × ${count(h)}`;
export function bytes(n) {
  if (n < 1e3) return `${n} B`;
  return n < 1e6 ? `${Math.round(n / 1e3)} KB` : `${(n / 1e6).toFixed(n < 1e7 ? 1 : 0)} MB`;
}
export function duration(seconds) {
  if (seconds < 1.5) return "about a second";
  if (seconds < 90) return `about ${Math.round(seconds)} s`;
  return seconds < 5400 ? `about ${Math.round(seconds / 60)} min` : `about ${(seconds / 3600).toFixed(1)} h`;
}
export function left(job) {
  if (job.seconds_left === null) return "working";
  return job.seconds_left < 1 ? "nearly done" : `${duration(job.seconds_left).replace("about a second", "1 s")} left`;
}
