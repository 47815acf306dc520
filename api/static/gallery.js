// The gallery: finds images by words, by an image, or by similarity. No library, no build.

const TYPING_MS = 180; // of silence, before what is typed is searched
const PAGE = 60;
const SMALL_SIDE = 128; // images this small are shown pixel by pixel
const FILTERS = ["model", "source", "seed", "min_width", "created_after", "created_before"];
const TIMES = new Set(["created_after", "created_before"]);

const $ = (id) => document.getElementById(id);
let asked = { q: "" }; // what is searched: {q}, {like, url} or {image}
let cursor = null; // of the next page
let running = null; // the search that is under way
let open = null; // the hit in the dialog
let timer;

function make(tag, fields = {}, ...children) {
  const node = Object.assign(document.createElement(tag), fields);
  node.append(...children);
  return node;
}

function say(text, failed = false) {
  $("status").textContent = text;
  $("status").className = failed ? "wide error" : "wide";
}

// The server

async function ask(path, options = {}) {
  const key = $("key").value.trim();
  const headers = key ? { ...options.headers, Authorization: `Bearer ${key}` } : options.headers;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Error("The server cannot be reached.");
  }
  if (answer.status === 204) return null;
  if (answer.ok) return answer.json();
  const body = await answer.json().catch(() => null);
  const failure = new Error(body && body.error ? body.error.message : `The server answered ${answer.status}.`);
  failure.param = body && body.error && body.error.param;
  failure.status = answer.status;
  throw failure;
}

function filters() {
  const wanted = {};
  for (const name of FILTERS) {
    const value = $(name).value.trim();
    if (value !== "") wanted[name] = TIMES.has(name) ? new Date(value).getTime() / 1000 : value;
  }
  return wanted;
}

function page(signal) {
  const wanted = { ...filters(), limit: PAGE, ...(cursor ? { cursor } : {}) };
  if (!asked.image) {
    const what = asked.like ? { like: asked.like } : asked.q ? { q: asked.q } : {};
    return ask(`/v1/search?${new URLSearchParams({ ...what, ...wanted })}`, { signal });
  }
  for (const name of ["seed", "min_width"]) if (wanted[name] !== undefined) wanted[name] = Number(wanted[name]);
  const body = JSON.stringify({ image: asked.image, ...wanted });
  return ask("/v1/search", { method: "POST", headers: { "Content-Type": "application/json" }, body, signal });
}

// The search

async function search() {
  clearTimeout(timer);
  running?.abort();
  cursor = null;
  $("by").hidden = !asked.like && !asked.image;
  if (!$("by").hidden) {
    $("by-image").src = asked.url;
    $("by-text").textContent = asked.like ? "Images like this one" : "Images like yours";
  }
  for (const field of document.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  const set = Object.keys(filters()).length;
  $("summary").textContent = set ? `${set} set` : "";
  remember();
  await load(true);
}

async function load(first = false) {
  if (running && !first) return;
  const mine = (running = new AbortController());
  try {
    const found = await page(mine.signal);
    if (first) $("hits").replaceChildren();
    $("hits").append(...found.data.map(item));
    cursor = found.next_cursor;
    const count = $("hits").childElementCount;
    if (!count) say(asked.q || asked.like || asked.image || Object.keys(filters()).length ? "Nothing was found." : "There are no images yet.");
    else say(`${count}${cursor ? " and more" : ""} image${count === 1 && !cursor ? "" : "s"}.`);
  } catch (problem) {
    if (problem.name !== "AbortError") failed(problem);
  } finally {
    if (running === mine) {
      running = null;
      if (cursor && near()) load();
    }
  }
}

function failed(problem) {
  say(problem.message, true);
  cursor = null;
  const needsKey = problem.status === 401 || problem.status === 403;
  if (needsKey) $("key-field").hidden = false;
  const field = $(needsKey ? "key" : problem.param || "");
  if (!field || field.type === "file") return;
  if (field.closest("details")) $("filters").open = true;
  field.setAttribute("aria-invalid", "true");
  if (needsKey) field.focus();
}

const near = () => $("more").getBoundingClientRect().top < innerHeight + 800;

// What is searched stays behind the #, so that no log of a server or a proxy ever sees it.
function remember() {
  const what = asked.like ? { like: asked.like } : asked.q ? { q: asked.q } : {};
  const parts = new URLSearchParams({ ...what, ...Object.fromEntries(FILTERS.filter((name) => $(name).value).map((name) => [name, $(name).value])) });
  history.replaceState(null, "", `${location.pathname}${parts.size ? `#${parts}` : ""}`);
}

function recall() {
  const parts = new URLSearchParams(location.hash.slice(1));
  for (const name of FILTERS) $(name).value = parts.get(name) || "";
  const like = parts.get("like");
  asked = like ? { like, url: `/v1/images/${encodeURIComponent(like)}` } : { q: parts.get("q") || "" };
  $("q").value = asked.q || "";
}

// The images

function item(hit) {
  const small = Math.max(hit.width, hit.height) <= SMALL_SIDE;
  const image = make("img", { src: hit.url, alt: "", width: hit.width, height: hit.height, loading: "lazy", decoding: "async", className: small ? "pixels" : "" });
  const button = make("button", { type: "button", title: hit.prompt }, image, make("span", { textContent: hit.prompt || hit.origin || hit.name }));
  const words = asked.q;
  button.addEventListener("click", () => {
    if (words) clicked(words, hit);
    show(hit);
  });
  const node = make("li", {}, button);
  image.addEventListener("error", () => node.remove()); // deleted meanwhile
  return node;
}

// Hits that are chosen move up in later searches for the same words.
function clicked(words, hit) {
  const body = JSON.stringify({ query: words, image: hit.name });
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body, keepalive: true };
  ask("/v1/search/clicks", options).catch(() => {}); // the person has what they wanted
}

function show(hit) {
  open = hit;
  const small = Math.max(hit.width, hit.height) <= SMALL_SIDE;
  Object.assign($("view-image"), { src: hit.url, alt: hit.prompt, className: small ? "pixels" : "" });
  $("view-prompt").textContent = hit.prompt || hit.origin || hit.name;
  const parts = [`${hit.width} × ${hit.height}`, hit.source === "imported" && hit.origin && `from ${hit.origin}`, hit.model, hit.lora && `adapter ${hit.lora}`, hit.seed !== null && `seed ${hit.seed}`, new Date(hit.created_at * 1000).toLocaleString(), ...Object.entries(hit.why).map(([name, why]) => `${name}: place ${why.rank}, ${why.score.toFixed(3)}`)];
  $("view-detail").textContent = parts.filter(Boolean).join(" · ");
  $("download").href = hit.url;
  const ending = hit.name.split(".").pop();
  $("download").download = `${(hit.prompt || "image").replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60)}.${ending}`;
  const again = new URLSearchParams({ prompt: hit.prompt, model: hit.model, width: hit.width, height: hit.height, ...(hit.seed === null ? {} : { seed: hit.seed }) });
  $("draw").href = `/#${again}`;
  $("draw").hidden = hit.source !== "generated" || !hit.prompt;
  $("view").showModal();
}

function move(step) {
  const buttons = [...document.querySelectorAll("#hits button")];
  if (!buttons.length) return;
  const at = buttons.indexOf(document.activeElement);
  const columns = getComputedStyle($("hits")).gridTemplateColumns.split(" ").length;
  const to = at < 0 ? 0 : at + (step === "down" ? columns : step === "up" ? -columns : step);
  if (to < 0) $("q").focus();
  else buttons[Math.min(to, buttons.length - 1)].focus();
}

async function byFile(file) {
  if (!file || !file.type.startsWith("image/")) return;
  const reader = new FileReader();
  reader.addEventListener("load", () => {
    asked = { image: reader.result, url: reader.result };
    $("q").value = "";
    search();
  });
  reader.readAsDataURL(file);
}

function byWords() {
  asked = { q: $("q").value.trim() };
  search();
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  byWords();
});
$("q").addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(byWords, TYPING_MS);
});
$("filters").addEventListener("change", (event) => {
  if (event.target.id !== "key") search();
});
$("file").addEventListener("change", () => byFile($("file").files[0]));
for (const name of ["dragover", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    if (name === "drop") byFile(event.dataTransfer.files[0]);
  });
}
$("clear").addEventListener("click", () => {
  $("file").value = "";
  byWords();
  $("q").focus();
});
$("similar").addEventListener("click", () => {
  $("view").close();
  asked = { like: open.name, url: open.url };
  $("q").value = "";
  scrollTo({ top: 0 });
  search();
});
document.addEventListener("keydown", (event) => {
  if ($("view").open) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    $("q").focus();
  }
  const steps = { ArrowDown: "down", ArrowUp: "up", ArrowRight: 1, ArrowLeft: -1 };
  const step = steps[event.key];
  if (step === undefined || (typing && !(event.target.id === "q" && step === "down"))) return;
  event.preventDefault();
  move(step);
});
$("key").value = sessionStorage.getItem("darkroom.key") || "";
$("key").addEventListener("change", () => {
  sessionStorage.setItem("darkroom.key", $("key").value.trim());
  search();
});
new IntersectionObserver(() => {
  if (cursor && !running) load();
}, { rootMargin: "800px" }).observe($("more"));
addEventListener("hashchange", () => {
  recall();
  search();
});
ask("/v1/models").then(
  (models) => $("models").append(...models.data.map((each) => make("option", { value: each.id }))),
  () => {}, // the search says what is wrong
);
recall();
search();
