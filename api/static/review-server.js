// The admin API of reviews, as the page of reviewers uses it. No answer is kept by the browser.
// Without a key the browser sends the cookie of the person who is signed in.

const REVIEWS = "/v1/admin/moderation/reviews";
const KEY = "darkroom.moderate"; // apart from the playground's key, which draws

export const key = () => sessionStorage.getItem(KEY) || "";
export const setKey = (value) => sessionStorage.setItem(KEY, value.trim());

async function ask(path, options = {}) {
  let answer;
  const shown = key() ? { Authorization: `Bearer ${key()}` } : {};
  try {
    answer = await fetch(path, { ...options, cache: "no-store", headers: { ...options.headers, ...shown } });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Error("The server cannot be reached. Nothing was decided.");
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  const error = body && body.error;
  const failure = new Error(error ? error.message : `The server answered ${answer.status}.`);
  failure.status = answer.status;
  failure.retryAfter = Number(answer.headers.get("Retry-After")) || 0;
  throw failure;
}

// One page of the queue: {data, next_cursor, waiting, oldest_at, reviewers}
export async function list(query) {
  const given = Object.entries(query).filter(([, value]) => value);
  return (await ask(`${REVIEWS}?${new URLSearchParams(given)}`)).json();
}

export async function read(name, signal) {
  return (await ask(`${REVIEWS}/${encodeURIComponent(name)}`, { signal })).json();
}

// The bytes of a held image. They count against the limit of the key.
export async function picture(review, signal) {
  return (await ask(review.picture, { signal })).blob();
}

// `action` is release, refuse or undo.
export async function act(name, action, note) {
  const body = JSON.stringify({ note });
  const headers = { "Content-Type": "application/json" };
  return (await ask(`${REVIEWS}/${encodeURIComponent(name)}/${action}`, { method: "POST", headers, body })).json();
}
