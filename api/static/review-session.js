// Who is at the page of reviewers: a person who has signed in, or whoever has given a key.

import { key, setKey } from "./review-server.js";
import { $ } from "./review-view.js";

const NOTES = "darkroom.notes"; // kept while the browser is at the sign-in service, and no longer

let person = null;

export const known = () => Boolean(key() || person);

// Asks the server who is signed in, and shows what the page offers for that.
export async function look() {
  const answer = await fetch("/session", { cache: "no-store" }).catch(() => null);
  if (!answer?.ok) throw new Error("The server cannot say who is signed in.");
  const told = await answer.json();
  person = told.person;
  $("sign-in").hidden = !told.sign_in;
  if (told.sign_in) $("sign-in").firstElementChild.href = told.sign_in;
  $("key-hint").hidden = !told.sign_in;
  $("who").hidden = !person || Boolean(key());
  $("name").textContent = person ? person.name : "";
}

// A key takes the place of a sign-in.
export function useKey(value) {
  setKey(value);
  $("who").hidden = true;
}

// The sign-in has ended.
export function gone() {
  person = null;
  $("who").hidden = true;
}

export async function signOut() {
  const answer = await fetch("/sign-out", { method: "POST", cache: "no-store" }).catch(() => null);
  if (!answer?.ok) throw new Error("You are still signed in: the server cannot be reached.");
  gone();
}

// A sign-in takes the place of a key. Notes are there again after it.
export function leaveFor(drafts) {
  setKey("");
  if (drafts.size) sessionStorage.setItem(NOTES, JSON.stringify([...drafts]));
}

export function keptNotes() {
  const text = sessionStorage.getItem(NOTES);
  sessionStorage.removeItem(NOTES);
  return text ? JSON.parse(text) : [];
}
