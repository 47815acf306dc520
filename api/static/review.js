// The page of reviewers: a queue of held images, one of them open, decided by keys or by buttons. No library, no build.

import { act, list, picture, read } from "./review-server.js";
import { gone, keptNotes, known, leaveFor, look as lookWho, signOut, useKey } from "./review-session.js";
import { $, lasting, make, queueItem, showCase, showCount, stateOf, suggest } from "./review-view.js";

const PAGE = 50;
const LOOK_MS = 30000; // between two looks at the queue

let queue = []; // reviews, as the list has them
let cursor = null; // of the next page of the list
let reviewers = 1; // how many must agree
let open = null; // the name of the open image
let review = null; // all that is known of it, once it is read
let reading = null; // what is being read of it; aborted when another one is opened
let loads = 0; // of the list; only the answer to the last one counts
let acting = false; // a decision is under way
const drafts = new Map(); // notes by name, until they are sent
const decided = []; // names, in the order in which this page has decided them

function say(text, kind = "") {
  $("status").textContent = text;
  $("status").className = `wide ${kind}`;
}

// What went wrong is said. Notes, place in the queue and picture stay, also while the page asks for a key.
function failed(problem) {
  if (problem.name === "AbortError") return;
  say(problem.message, "error");
  if (problem.status !== 401 && problem.status !== 403) return;
  const how = $("sign-in").hidden ? "Give a key" : "Sign in, or give a key";
  say(`${problem.message} ${how} with the scope moderate; your notes and your place are kept.`, "error");
  if (problem.status === 401) gone();
  askForKey();
}

function askForKey() {
  $("key-form").hidden = false;
  if (document.activeElement !== $("note")) ($("sign-in").hidden ? $("key") : $("sign-in").firstElementChild).focus(); // what is being typed goes on as a note
}

// The queue

const query = () => ({ state: $("state").value, category: $("category").value.trim(), tenant: $("tenant").value.trim(), limit: PAGE });

// `keep` is the image that stays open if it is still there; with `insist` also if the list does not have it.
async function load({ more = false, keep = open, insist = false } = {}) {
  if (!known()) {
    askForKey();
    return;
  }
  const mine = (loads += 1);
  try {
    const page = await list({ ...query(), after: more ? cursor : "" });
    if (mine !== loads) return;
    $("key-form").hidden = true;
    const known = new Set(more ? queue.map((each) => each.name) : []);
    queue = [...(more ? queue : []), ...page.data.filter((each) => !known.has(each.name))];
    ({ next_cursor: cursor, reviewers } = page);
    suggest("categories", queue.flatMap((each) => each.categories));
    suggest("tenants", queue.flatMap((each) => each.tenants));
    showCount(page);
    const there = keep && (insist || queue.some((each) => each.name === keep));
    if (!more) show(there ? keep : queue.length ? queue[0].name : null);
    showQueue();
  } catch (problem) {
    failed(problem);
  }
}

function showQueue() {
  const focused = $("queue").contains(document.activeElement);
  $("queue").replaceChildren(...queue.map((each) => queueItem(each, reviewers, each.name === open)));
  $("more").hidden = !cursor;
  const current = $("queue").querySelector('[aria-current="true"]');
  current?.scrollIntoView({ block: "nearest", inline: "nearest" });
  if (focused) current?.focus({ preventScroll: true });
  if (!queue.length) $("queue").append(make("li", { className: "soft", textContent: "Nothing is here." }));
}

async function step(by) {
  const at = queue.findIndex((each) => each.name === open);
  if (at + by >= queue.length && cursor) await load({ more: true });
  const to = at < 0 ? 0 : at + by;
  if (to < 0) say("This is the first one.");
  else if (to >= queue.length) say("This is the last one.");
  else {
    say(`Image ${to + 1} of ${queue.length}${cursor ? " and more" : ""}.`);
    show(queue[to].name);
  }
}

// One image

function dropPicture() {
  reading?.abort();
  $("picture").removeAttribute("src");
  $("picture").hidden = true;
  blur(true);
}

function blur(on) {
  $("picture").classList.toggle("blurred", on);
  $("look").setAttribute("aria-pressed", !on);
  $("picture").alt = on ? "The held image, blurred" : "The held image";
  $("look-hint").textContent = on ? "Blurred. V or a click shows it." : "V or a click blurs it.";
}

function tell(text, error = false) {
  $("look-text").textContent = text;
  $("look-text").className = error ? "error" : "";
}

// Opens an image: what the list has of it at once, then the rest, then the picture, blurred.
async function show(name) {
  if (name === open && review && !$("picture").hidden) return;
  keepNote();
  dropPicture();
  [open, review] = [name, null];
  showQueue();
  $("case").hidden = !name;
  if (!name) return;
  const mine = (reading = new AbortController());
  const listed = queue.find((each) => each.name === name);
  if (listed) showCase(listed, reviewers, show);
  $("note").value = drafts.get(name) || "";
  $("undo").hidden = !decided.length;
  tell("Opening…");
  try {
    opened(await read(name, mine.signal));
    await showPicture(review, mine.signal);
  } catch (problem) {
    if (problem.name === "AbortError") return;
    const again = problem.retryAfter ? ` Again in ${lasting(problem.retryAfter)}.` : "";
    tell(`${problem.message}${again}`, true);
    if (problem.status !== 429) failed(problem);
  }
}

function opened(detail) {
  review = detail;
  showCase(review, reviewers, show);
  $("undo").hidden = !review.undoable && !decided.length;
}

// A blob: address that only this page knows, and not for longer than the picture takes to be decoded.
async function showPicture(of, signal) {
  const address = URL.createObjectURL(await picture(of, signal));
  try {
    $("picture").src = address;
    await $("picture").decode();
    if (signal.aborted) return;
    $("picture").classList.toggle("pixels", Math.max(of.width, of.height) <= 128);
    $("picture").hidden = false;
    tell("");
  } catch (problem) {
    if (!signal.aborted) throw new Error("The file of this image cannot be shown.", { cause: problem });
  } finally {
    URL.revokeObjectURL(address);
  }
}

function look() {
  blur(!$("picture").classList.contains("blurred"));
}

function keepNote() {
  if (!open) return;
  if ($("note").value.trim()) drafts.set(open, $("note").value);
  else drafts.delete(open);
}

// Decisions

async function once(work) {
  if (acting) return;
  acting = true;
  $("case").setAttribute("aria-busy", "true");
  try {
    await work();
  } finally {
    acting = false;
    $("case").removeAttribute("aria-busy");
  }
}

// Only an image that is read can be decided: no key that is pressed twice decides on the next one unseen.
const decide = (choice) => once(async () => {
  if (!review) return;
  const { name } = review;
  try {
    const before = await read(name);
    if (before.state !== "waiting") {
      say(`You are late: this image was ${stateOf(before, reviewers)}.`, "error");
      late(name, before);
      return;
    }
    const answer = await act(name, choice, $("note").value.trim());
    drafts.delete(name);
    if (open === name) $("note").value = "";
    if (answer.state === "waiting") {
      const left = reviewers - answer.votes.filter((vote) => vote.choice === choice).length;
      say(`Your choice is noted: ${choice}. The image waits for ${left === 1 ? "one more reviewer" : `${left} more reviewers`}.`, "told");
    } else {
      decided.push(name);
      say(`${stateOf(answer, reviewers).replace(/^./, (first) => first.toUpperCase())}. U undoes it.`, "told");
    }
    leave(name, answer);
  } catch (problem) {
    failed(problem);
    if (problem.status === 409) await read(name).then((answer) => late(name, answer), failed);
  }
});

// Goes on to the next image. A decided one leaves the queue of those that wait.
function leave(name, answer) {
  const at = queue.findIndex((each) => each.name === name);
  const gone = answer.state !== "waiting" && $("state").value === "waiting";
  const next = queue[at + 1] || (gone ? queue[at - 1] : undefined);
  queue = gone ? queue.filter((each) => each.name !== name) : queue.map((each) => (each.name === name ? answer : each));
  if (open === name && (gone || next)) show(next ? next.name : null);
  else if (open === name) opened(answer);
  showQueue();
  count();
}

// Another reviewer was first: the image stays open, and says who decided and how.
function late(name, answer) {
  queue = queue.map((each) => (each.name === name ? answer : each));
  if (open === name) opened(answer);
  showQueue();
}

function forget(name) {
  if (decided.includes(name)) decided.splice(decided.lastIndexOf(name), 1);
}

const undo = () => once(async () => {
  const name = review && review.undoable ? review.name : decided.at(-1);
  if (!name) {
    say("There is nothing to undo.");
    return;
  }
  try {
    await act(name, "undo", "");
    forget(name);
    say("Undone. The image waits again, and nobody sees it.", "told");
    review = null; // it is read again
    await load({ keep: name, insist: true });
  } catch (problem) {
    failed(problem);
    if (problem.status === 409) forget(name);
  }
});

// The queue grows while somebody looks at one image: the count says so. An empty page fills by itself.
async function count() {
  if (document.hidden || !known() || !$("key-form").hidden) return;
  if (!queue.length && $("state").value === "waiting" && !open) await load();
  else await list({ limit: 1 }).then(showCount, failed);
}

// Keys and buttons

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  v: look,
  r: () => decide("release"),
  x: () => decide("refuse"),
  u: undo,
  l: () => load(),
  n: () => $("note").focus(),
};

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && event.target === $("note")) $("note").blur();
  const typing = event.target.matches("textarea, select, input:not([type=checkbox])");
  const action = KEYS[event.key.toLowerCase()];
  if (!action || typing || event.repeat || event.ctrlKey || event.metaKey || event.altKey || !$("keys-on").checked) return;
  event.preventDefault();
  action();
});
$("release").addEventListener("click", KEYS.r);
$("refuse").addEventListener("click", KEYS.x);
$("undo").addEventListener("click", undo);
$("next").addEventListener("click", KEYS.j);
$("previous").addEventListener("click", KEYS.k);
$("look").addEventListener("click", look);
$("reload").addEventListener("click", KEYS.l);
$("more").addEventListener("click", () => load({ more: true }));
$("queue").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) show(button.dataset.name);
});
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("filters").addEventListener("change", () => load({ keep: null }));
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey($("key").value);
  $("key").value = "";
  say("");
  load();
});
$("sign-in").addEventListener("click", () => {
  keepNote();
  leaveFor(drafts);
});
$("sign-out").addEventListener("click", async () => {
  try {
    await signOut();
    keepNote();
    show(null);
    queue = [];
    showQueue();
    say("You are signed out here. The sign-in service may still know you.", "told");
    askForKey();
  } catch (problem) {
    failed(problem);
  }
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) blur(true);
  else count();
});
addEventListener("pagehide", dropPicture); // no page that the browser keeps has a picture
addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  review = null;
  load();
});
setInterval(count, LOOK_MS);
blur(true);
keptNotes().forEach(([name, note]) => drafts.set(name, note));
lookWho().catch(failed).finally(load);
