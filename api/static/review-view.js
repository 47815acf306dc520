// What the page of reviewers shows of a held image, and of the queue. It asks the server nothing.

const SEVERITIES = { 4: "appealed", 3: "grave", 2: "likely", 1: "other" };
const HOUR_S = 3600;

export const $ = (id) => document.getElementById(id);

export function make(tag, fields = {}, ...children) {
  const node = Object.assign(document.createElement(tag), fields);
  node.append(...children);
  return node;
}

export function lasting(seconds) {
  if (seconds < 60) return "less than a minute";
  if (seconds < HOUR_S) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 48 * HOUR_S) return `${Math.floor(seconds / HOUR_S)} h`;
  return `${Math.floor(seconds / (24 * HOUR_S))} days`;
}

const since = (at) => lasting(Date.now() / 1000 - at);
const date = (at) => new Date(at * 1000).toLocaleString();
const by = (person) => person.name || person.by || "nobody";
const PAST = { release: "released", refuse: "refused" };

// "released by Ada", or what is awaited
export function stateOf(review, reviewers) {
  if (review.state !== "waiting") return review.decision ? `${review.state} by ${by(review.decision)}` : review.state;
  if (!review.votes.length || reviewers < 2) return "waiting";
  const agreeing = Math.max(...Object.keys(PAST).map((choice) => review.votes.filter((vote) => vote.choice === choice).length));
  return `${agreeing} of ${reviewers} reviewers`;
}

export function showCount(page) {
  const oldest = page.oldest_at === null ? "" : `, the oldest for ${since(page.oldest_at)}`;
  const agreement = page.reviewers > 1 ? `. ${page.reviewers} reviewers must agree` : "";
  $("waiting").textContent = `${page.waiting} ${page.waiting === 1 ? "waits" : "wait"}${oldest}${agreement}`;
}

function badge(text, kind = "") {
  return make("span", { className: `badge ${kind}`, textContent: text });
}

function badges(review, reviewers) {
  const kinds = { released: "hit", waiting: "joined" };
  const appealed = review.appeal ? [badge("appealed")] : [];
  return [...appealed, badge(stateOf(review, reviewers), kinds[review.state]), ...review.categories.map((each) => badge(each))];
}

export function queueItem(review, reviewers, isCurrent) {
  const waited = review.state === "waiting" ? `for ${since(review.created_at)}` : "";
  const parts = [SEVERITIES[review.severity], ...review.categories, stateOf(review, reviewers), waited];
  const button = make("button", { type: "button" }, make("b", { textContent: review.prompt || review.name }), make("span", { textContent: parts.filter(Boolean).join(" · ") }));
  button.dataset.name = review.name;
  button.setAttribute("aria-current", isCurrent);
  return make("li", {}, button);
}

export function suggest(id, values) {
  const known = new Set([...$(id).children].map((each) => each.value));
  $(id).append(...[...new Set(values)].filter((value) => !known.has(value)).map((value) => make("option", { value })));
}

const LOOKS = {
  release: "advises to release",
  refuse: "advises to refuse",
  review: "is not sure",
  away: "did not answer",
  garbled: "gave an answer that cannot be read",
  over_budget: "was not asked: the budget of this hour was used up",
  too_late: "was not asked: the deadline had passed",
};

// What a model said before people looked. Its reason is what it says, and may be wrong.
function secondLook(look) {
  if (!look) return "";
  const scores = look.findings.map((each) => `${each.category} ${each.score.toFixed(2)}`).join(", ");
  return `${look.model} ${LOOKS[look.outcome] || look.outcome}${scores ? ` (${scores})` : ""}${look.reason ? `: “${look.reason}”` : ""}`;
}

function facts(review) {
  const score = review.score === null ? "" : `, score ${review.score.toFixed(3)}`;
  const rows = [
    ["Verdict", `${review.verdict.replace("_", " ")} by ${review.layer || "no layer"}${score}`],
    ["Policy", review.policy],
    ["Source", review.source],
    ["Findings", (review.findings || []).map((each) => `${each.layer}: ${each.category} ${each.score.toFixed(3)} (${each.source})`).join("; ")],
    ["Could not look", review.away.join(", ")],
    ["Second look", secondLook(review.second_look)],
    ["Held", `${date(review.created_at)} (${since(review.created_at)})`],
    ["Tenant", review.tenants.join(", ")],
    ["Jobs", (review.jobs || []).map((job) => `${job.id} (${job.indexes.join(", ")})`).join("; ")],
    ["Image", `${review.width} × ${review.height}, ${review.model}${review.lora ? ` with ${review.lora}` : ""}, seed ${review.seed}`],
  ];
  return rows.filter(([, text]) => text).flatMap(([name, text]) => [make("dt", { textContent: name }), make("dd", { textContent: text })]);
}

function votes(review) {
  const open = review.state === "waiting" || review.votes.length > 1 ? review.votes : [];
  const lines = open.map((vote) => `${by(vote)}: ${vote.choice}${vote.note ? `. ${vote.note}` : ""}`);
  if (review.decision) {
    const { choice, note, at } = review.decision;
    lines.push(`${PAST[choice] || "undone"} by ${by(review.decision)}, ${date(at)}${note ? `. ${note}` : ""}`);
  }
  return lines.map((textContent) => make("li", { textContent }));
}

// `review` is one of the list at first, and then with all details.
export function showCase(review, reviewers, openCase) {
  $("case").hidden = false;
  $("badges").replaceChildren(...badges(review, reviewers));
  $("prompt").textContent = review.prompt || "(no prompt)";
  $("negative").hidden = !review.negative_prompt;
  $("negative").textContent = `Not: ${review.negative_prompt}`;
  $("appeal").hidden = !review.appeal;
  $("appeal").textContent = review.appeal ? `The owner appeals: ${review.appeal.reason}` : "";
  $("facts").replaceChildren(...facts(review));
  $("votes").replaceChildren(...votes(review));
  const like = review.like || [];
  $("like").hidden = !like.length;
  $("cases").replaceChildren(
    ...like.map((each) => {
      const button = make("button", { type: "button" }, each.state, make("br"), make("span", { textContent: [...each.categories, `like by ${each.similarity.toFixed(2)}`].join(" · ") }));
      button.addEventListener("click", () => openCase(each.name));
      return make("li", {}, button);
    }),
  );
}
