"use strict";
// The page: sends one picture to /classify and shows the answer. Text is only ever set as text.

const $ = (id) => document.getElementById(id);
const KEY = "menagerie-token";
const TINY = 96; // pixels up to which a picture is shown with its pixels
let shown = null; // address of the picture on the page
let last = null; // picture to send again once there is a token
let turn = 0; // answers to earlier pictures are not shown any more

const percent = (share) => (share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);

function bar(name, share, { note = "", other = false } = {}) {
  const item = document.createElement("li");
  item.classList.toggle("other", other);
  const who = document.createElement("span");
  who.className = "who";
  if (note) {
    const from = document.createElement("span");
    from.className = "quiet";
    from.textContent = note;
    who.append(from);
  }
  const vote = document.createElement("span");
  vote.className = "vote";
  vote.textContent = name;
  who.append(vote);
  const track = document.createElement("span");
  track.className = "track";
  track.setAttribute("aria-hidden", "true");
  const fill = document.createElement("div");
  fill.className = "fill";
  fill.style.width = `${100 * share}%`;
  track.append(fill);
  const number = document.createElement("span");
  number.className = "number";
  number.textContent = percent(share);
  item.append(who, track, number);
  return item;
}

function agreement(answer) {
  const asked = answer.members.length;
  const stage = answer.stage ? ` It took ${answer.stage} stage${answer.stage > 1 ? "s" : ""} of the cascade.` : "";
  if (asked === 1) return `One member was asked.${stage}`;
  if (answer.agree === asked) return `All ${asked} members agree.${stage}`;
  const weight = percent(answer.disagreement);
  return `${answer.agree} of ${asked} members agree; ${weight} of the weight says something else.${stage}`;
}

function show(answer) {
  const [best] = answer.top;
  $("verdict").textContent = `${best.class}, ${percent(best.prob)}`;
  $("top").replaceChildren(...answer.top.map((one) => bar(one.class, one.prob)));
  $("votes").hidden = answer.members === null;
  $("agreement").textContent = answer.members === null ? "This model does not tell its members’ votes." : agreement(answer);
  const votes = answer.members ?? [];
  $("each").replaceChildren(
    ...votes.map((one) => bar(one.class, one.prob, { note: one.name, other: one.class !== best.class })),
  );
  $("answer").hidden = false;
}

function fail(sentence) {
  $("answer").hidden = true;
  $("error").textContent = sentence;
  $("error").hidden = false;
}

async function ask(file) {
  last = file;
  const mine = ++turn;
  $("error").hidden = true;
  $("key").hidden = true;
  $("status").textContent = "Asking …";
  const token = sessionStorage.getItem(KEY);
  const headers = { "Content-Type": "application/octet-stream", ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  try {
    const response = await fetch("classify", { method: "POST", headers, body: file });
    const answer = await response.json();
    if (mine !== turn) return;
    if (response.status === 401) {
      sessionStorage.removeItem(KEY);
      $("answer").hidden = true;
      $("key").hidden = false;
      $("token").value = "";
      $("token").focus();
      $("status").textContent = token ? "This was not the token." : "";
      return;
    }
    $("status").textContent = "";
    if (!response.ok) return fail(`${answer.error}.`);
    const address = URL.createObjectURL(file);
    if (shown) URL.revokeObjectURL(shown);
    shown = address;
    $("picture").onload = () => $("picture").classList.toggle("tiny", $("picture").naturalWidth <= TINY);
    $("picture").src = address;
    show(answer);
  } catch {
    if (mine !== turn) return;
    $("status").textContent = "";
    fail("The server did not answer. Is it still running?");
  }
}

$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) ask(file);
  $("file").value = ""; // the same picture may be chosen again
});
$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("token").value.trim());
  if (last) ask(last);
});
$("ask").addEventListener("submit", (event) => event.preventDefault());
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault(); // a browser would leave the page for a picture that is dropped beside
    $("drop").classList.toggle("over", name === "dragenter" || name === "dragover");
    const file = name === "drop" ? event.dataTransfer?.files[0] : null;
    if (file) ask(file);
  });
}
document.addEventListener("paste", (event) => {
  const file = event.clipboardData?.files[0];
  if (file) ask(file);
});
