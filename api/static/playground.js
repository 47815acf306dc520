// The playground: submits a job, follows its events, shows its pictures. No library, no build.

const EXAMPLES = {
  rocket: "a rocket on a yellow background",
  snowman: "a snowman on a blue background",
  pizza: "a pizza on a green background",
  umbrella: "an umbrella on a pink background",
  guitar: "a guitar on a white background, flat style",
  "red apple": "a small red apple on a blue background, on the left",
};
const HISTORY = "darkroom.history";
const HISTORY_LIMIT = 24;
const SMALL_SIDE = 128; // pictures this small are shown pixel by pixel
const TRIES = 8;
const FIRST_LOOK_MS = 1000;
const LAST_LOOK_MS = 15000;
const BADGES = { hit: "from the cache", joined: "shared with an equal request", miss: "freshly developed" };
const FIELDS = { num_images: "count", num_inference_steps: "steps", output_format: "format" };

const $ = (id) => document.getElementById(id);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const pending = (job) => job.status === "queued" || job.status === "running";
let models = [];
let current = null;
let shown = null;
let waiting = false; // for a worker
let look; // the timer of the next look for one
let lookMs = FIRST_LOOK_MS;
let wanted = shared();
let said = ""; // what stands in the status because of that wait

function make(tag, fields = {}, ...children) {
  const node = Object.assign(document.createElement(tag), fields);
  node.append(...children);
  return node;
}

function say(text, failed = false) {
  $("status").textContent = text;
  $("status").className = failed ? "error" : "";
}

// The server

function headers(more = {}) {
  const key = $("key").value.trim();
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: headers(options.headers) });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Error("The server cannot be reached.");
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  const error = body && body.error;
  const failure = new Error(error ? error.message : `The server answered ${answer.status}.`);
  failure.param = error && error.param;
  failure.status = answer.status;
  failure.retryAfter = Number(answer.headers.get("Retry-After")) || 0;
  throw failure;
}

// Events as they come, by the HTML standard's rules, as far as this server uses them.
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const event = {};
      for (const line of block.split("\n")) {
        const colon = line.indexOf(":");
        if (colon > 0) event[line.slice(0, colon)] = line.slice(colon + 1).trimStart();
      }
      if (event.data) yield { name: event.event, id: event.id, data: JSON.parse(event.data) };
    }
  }
}

// The job to its end. A stream that breaks is resumed where it broke; where none is to be had, the job is polled.
async function follow(job, signal) {
  let last;
  let polling = false;
  for (let tries = 0; pending(job) && tries < TRIES; tries += 1) {
    if (tries) await pause(500 * tries);
    try {
      if (polling) {
        job = await (await ask(job.urls.self, { headers: { Prefer: "wait=20" }, signal })).json();
        tries = 0;
        tell(job);
        if (pending(job)) await pause(1000);
        continue;
      }
      const answer = await ask(job.urls.events, { headers: last === undefined ? {} : { "Last-Event-ID": last }, signal });
      for await (const event of events(answer)) {
        tries = 0;
        if (event.id !== undefined) last = event.id;
        if (event.name === "progress") job = { ...job, progress: event.data };
        else job = { ...job, ...event.data };
        tell(job);
      }
    } catch (problem) {
      if (problem.name === "AbortError" || (problem.status && problem.status < 500)) throw problem;
      polling = problem.status === 503;
    }
  }
  return (await ask(job.urls.self, { signal })).json();
}

function tell(job) {
  const bar = $("bar");
  const progress = job.status === "running" && job.progress;
  if (progress) {
    bar.max = progress.steps;
    bar.value = progress.step;
    say(`Developing, step ${progress.step} of ${progress.steps}`);
    return;
  }
  bar.removeAttribute("value");
  if (job.status === "running") say("Developing…");
  else if (job.status === "queued") {
    const ahead = job.queue_position;
    const place = ahead ? `, ${ahead} ahead` : ahead === 0 ? ", next" : "";
    const eta = job.eta_seconds ? `, about ${Math.ceil(job.eta_seconds)} s` : "";
    say(`In the queue${place}${eta}…`);
  }
}

// The form

function model() {
  return models.find((each) => each.id === $("model").value);
}

function showLimits() {
  const chosen = model();
  if (!chosen) return;
  for (const side of ["width", "height"]) {
    Object.assign($(side), { min: chosen.min_size, max: chosen.max_size, step: chosen.size_multiple, value: chosen[`default_${side}`] });
  }
  Object.assign($("steps"), { max: chosen.max_num_inference_steps, value: chosen.default_num_inference_steps });
  $("count").max = chosen.max_num_images;
  $("ability").textContent = ability(chosen);
  summarise();
}

function ability(chosen) {
  const most = chosen.max_num_inference_steps;
  const steps = most === 1 ? "draws in 1 step" : `takes up to ${most} steps`;
  const start = chosen.init_images ? "may start from a picture (init_image)" : "starts from noise alone, not from a picture";
  const negative = chosen.default_guidance_scale > 1 ? "" : ", and reads no negative prompt unless guidance_scale is above 1";
  return `${chosen.id} ${steps}, ${start}${negative}.`;
}

function summarise() {
  $("summary").textContent = `${$("width").value} × ${$("height").value}, ${$("steps").value} step${$("steps").value === "1" ? "" : "s"}`;
}

async function loadModels(again = false) {
  clearTimeout(look);
  waiting = false;
  try {
    models = (await (await ask("/v1/models")).json()).data;
  } catch (problem) {
    if (!again) {
      failed(problem);
      said = $("status").textContent;
    }
    if (!problem.status || problem.status >= 500) lookAgain();
    return;
  }
  const chosen = $("model").value;
  $("model").replaceChildren(...models.map((each) => make("option", { value: each.id, textContent: each.id })));
  const workers = models.reduce((sum, each) => sum + each.live_workers, 0);
  $("serving").textContent = models.length ? `${models.map((each) => each.id).join(", ")} on ${workers} worker${workers === 1 ? "" : "s"}` : "";
  // What was chosen stays, with what was typed for it.
  if (models.some((each) => each.id === chosen)) $("model").value = chosen;
  else showLimits();
  if (said && $("status").textContent === said && !current) say("");
  said = models.length ? "" : "No worker is ready yet. This page waits for one.";
  if (said && !current) say(said);
  if (!workers) lookAgain();
  else lookMs = FIRST_LOOK_MS;
  developShared();
}

// Until there is a worker, less and less often; while nobody sees the page, not at all.
function lookAgain() {
  waiting = true;
  if (document.hidden) return;
  look = setTimeout(() => loadModels(true), lookMs);
  lookMs = Math.min(2 * lookMs, LAST_LOOK_MS);
}

function request() {
  const body = { prompt: $("prompt").value || $("prompt").placeholder, output_format: $("format").value };
  if ($("model").value) body.model = $("model").value;
  const numbers = { width: "width", height: "height", steps: "num_inference_steps", count: "num_images" };
  for (const [id, name] of Object.entries(numbers)) if ($(id).value !== "") body[name] = Number($(id).value);
  const seed = $("seed").value.trim();
  if (seed !== "") body.seed = /^\d+$/.test(seed) ? Number(seed) : seed;
  return body;
}

function fill(asked) {
  $("prompt").value = asked.prompt;
  if (asked.model && models.some((each) => each.id === asked.model)) {
    $("model").value = asked.model;
    showLimits();
  }
  const names = { width: "width", height: "height", steps: "num_inference_steps", count: "num_images", seed: "seed", format: "output_format" };
  for (const [id, name] of Object.entries(names)) if (asked[name] !== undefined) $(id).value = asked[name];
  summarise();
}

function failed(problem) {
  const again = problem.retryAfter ? ` Try again in ${problem.retryAfter} s.` : "";
  say(problem.message + again, true);
  const needsKey = problem.status === 401 || problem.status === 403;
  if (needsKey) $("key-field").hidden = false;
  const field = $(needsKey ? "key" : FIELDS[problem.param] || problem.param || "");
  if (!field) return;
  if (field.closest("details")) $("settings").open = true;
  field.setAttribute("aria-invalid", "true");
  field.focus();
}

async function develop(body = request()) {
  if (current) return;
  const mine = (current = { stop: new AbortController(), job: null });
  const { signal } = mine.stop;
  const began = performance.now();
  for (const field of document.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  $("go").disabled = true;
  $("tray").dataset.state = "busy";
  $("bar").removeAttribute("value");
  $("developing").hidden = false;
  $("about").hidden = true;
  say("Sending…");
  // On a phone the tray is below the fold.
  $("tray").scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  try {
    const answer = await ask("/v1/jobs", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
    mine.job = await answer.json();
    $("stop").hidden = !pending(mine.job);
    const job = pending(mine.job) ? await follow(mine.job, signal) : mine.job;
    const seconds = (performance.now() - began) / 1000;
    if (job.status === "succeeded") {
      say(`Done in ${seconds.toFixed(2)} s.`);
      show(job);
      remember(job);
    } else {
      say(job.error ? job.error.message : `The job was ${job.status}.`, job.status !== "canceled");
    }
  } catch (problem) {
    if (problem.name !== "AbortError") failed(problem);
  } finally {
    current = null;
    $("go").disabled = false;
    $("stop").hidden = true;
    $("developing").hidden = true;
    $("tray").dataset.state = shown ? "done" : "empty";
    $("about").hidden = !shown;
  }
}

async function cancel() {
  if (!current || !current.job) return;
  const { job, stop } = current;
  stop.abort();
  try {
    await ask(job.urls.cancel, { method: "POST" });
    say("Canceled.");
  } catch (problem) {
    failed(problem);
  }
}

// Pictures

const WITHHELD = { in_review: "under review", refused: "refused by a reviewer", blocked: "blocked by the content policy" };

function picture(image, alt) {
  if (!image.url) {
    const why = WITHHELD[image.moderation && image.moderation.verdict] || "not shown";
    return make("span", { className: "withheld", textContent: why, title: ((image.moderation && image.moderation.categories) || []).join(", ") });
  }
  const small = Math.max(image.width, image.height) <= SMALL_SIDE;
  return make("img", { src: image.url, alt, width: image.width, height: image.height, className: small ? "pixels" : "" });
}

function show(job) {
  shown = job;
  const { images, timings, request: asked } = job;
  $("pictures").dataset.count = images.length;
  $("pictures").replaceChildren(...images.map((image) => (image.url ? make("a", { href: image.url, target: "_blank", rel: "noopener" }, picture(image, asked.prompt)) : picture(image, ""))));
  $("badge").className = `badge ${job.cache}`;
  $("badge").textContent = BADGES[job.cache];
  $("title").textContent = asked.prompt;
  const times = timings ? `, waited ${timings.queued_ms.toFixed(0)} ms, batch of ${timings.batch_size} in ${timings.batch_ms.toFixed(0)} ms` : "";
  $("detail").textContent = `seed ${images[0].seed}, ${images[0].width} × ${images[0].height}${times}`;
  $("notes").replaceChildren(...(job.warnings || []).map((warning) => make("li", { textContent: warning })));
  const first = images.find((image) => image.url);
  $("download").hidden = !first;
  $("download").href = first ? first.url : "";
  $("download").download = `${asked.prompt.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60) || "picture"}.${asked.output_format}`;
  $("about").hidden = false;
  $("tray").dataset.state = "done";
}

function link(job) {
  const { prompt, model: name, width, height, num_inference_steps: steps, seed, num_images: count } = job.request;
  const parts = new URLSearchParams({ prompt, model: name, width, height, num_inference_steps: steps, seed, num_images: count });
  return `${location.origin}${location.pathname}#${parts}`;
}

// What a shared link asks for; it stays behind the #, so that no log of a server or a proxy ever sees the prompt.
function shared() {
  const parts = new URLSearchParams(location.hash.slice(1));
  return parts.get("prompt") ? Object.fromEntries(parts) : null;
}

// Once, and not before there is a model to do it.
function developShared() {
  if (!wanted || !models.length) return;
  fill(wanted);
  wanted = null;
  develop();
}

async function share() {
  const address = link(shown);
  history.replaceState(null, "", address);
  try {
    await navigator.clipboard.writeText(address);
    say("The link is copied.");
  } catch {
    say("The link is in the address bar.");
  }
}

// This browser's history

function recall() {
  try {
    const kept = JSON.parse(localStorage.getItem(HISTORY));
    return Array.isArray(kept) ? kept.filter((job) => job && job.request && Array.isArray(job.images) && job.images.length) : [];
  } catch {
    return [];
  }
}

function remember(job) {
  if (!job.images.every((image) => image.url)) return; // a picture that may yet be refused is not kept
  const kept = { cache: job.cache, images: job.images, request: job.request, timings: job.timings, warnings: job.warnings };
  const others = recall().filter((each) => each.images[0].url !== job.images[0].url);
  try {
    localStorage.setItem(HISTORY, JSON.stringify([kept, ...others].slice(0, HISTORY_LIMIT)));
  } catch {
    return; // a browser that keeps nothing
  }
  showHistory();
}

function showHistory() {
  const jobs = recall();
  $("past").hidden = !jobs.length;
  $("history").replaceChildren(...jobs.map((job) => {
    const image = picture(job.images[0], "");
    const item = make("li", {});
    image.addEventListener("error", () => item.remove()); // the store has forgotten it
    const button = make("button", { type: "button", title: job.request.prompt }, image, make("span", { textContent: job.request.prompt }));
    button.addEventListener("click", () => {
      if (current) return;
      fill(job.request);
      show(job);
      say("");
      $("tray").scrollIntoView({ block: "nearest" });
    });
    item.append(button);
    return item;
  }));
}

for (const [name, text] of Object.entries(EXAMPLES)) {
  const chip = make("button", { type: "button", textContent: name, title: text });
  chip.addEventListener("click", () => {
    $("prompt").value = text;
    develop();
  });
  $("examples").append(chip);
}
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  develop();
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    develop();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") cancel();
});
$("model").addEventListener("change", showLimits);
$("settings").addEventListener("input", summarise);
$("stop").addEventListener("click", cancel);
$("share").addEventListener("click", share);
$("again").addEventListener("click", () => develop({ ...request(), seed: "random" }));
$("forget").addEventListener("click", () => {
  localStorage.removeItem(HISTORY);
  showHistory();
});
$("key").value = sessionStorage.getItem("darkroom.key") || "";
$("key").addEventListener("change", () => {
  sessionStorage.setItem("darkroom.key", $("key").value.trim());
  $("key").removeAttribute("aria-invalid");
  say("");
  loadModels();
});
document.addEventListener("visibilitychange", () => {
  clearTimeout(look);
  if (!waiting || document.hidden) return;
  lookMs = FIRST_LOOK_MS;
  loadModels(true);
});
showHistory();
loadModels();
