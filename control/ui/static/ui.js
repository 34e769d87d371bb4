// What is handier with scripts; everything works without them.
"use strict";

// A file that is chosen, or dropped there, goes into the text field that it is for, DER as PEM;
// nothing is uploaded but that text. Where the form can show what it holds, it does.
const textOf = async (file) => {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (bytes[0] !== 0x30) return file.text();
  const lines = btoa(String.fromCharCode(...bytes.subarray(0, 65536))).match(/.{1,64}/g);
  return ["-----BEGIN CERTIFICATE-----", ...lines, "-----END CERTIFICATE-----", ""].join("\n");
};
for (const input of document.querySelectorAll("input[type=file][data-into]")) {
  const field = document.getElementById(input.dataset.into);
  const take = async (file) => {
    if (!field || !file) return;
    field.value = await textOf(file);
    input.value = "";
    document.getElementById(input.dataset.then)?.click();
  };
  input.addEventListener("change", () => take(input.files[0]));
  field?.addEventListener("dragover", (event) => event.preventDefault());
  field?.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  });
}

// Who types what a choice is about has chosen it.
for (const input of document.querySelectorAll("input[data-chooses]")) {
  const choice = document.getElementById(input.dataset.chooses);
  input.addEventListener("input", () => { choice.checked = input.value !== ""; });
}

// Errors are where the reader is.
document.getElementById("problems")?.focus();

// What is grave is not a button away, as long as its name is not typed.
for (const word of document.querySelectorAll("input[data-word]")) {
  const button = word.form.querySelector("button.danger");
  const check = () => { button.disabled = word.value.trim() !== word.dataset.word; };
  word.addEventListener("input", check);
  check();
}

// A list that is followed: what is new comes in at the top; what is open, or read, stays where it is.
const live = document.getElementById("live");
if (live) {
  const body = document.querySelector("main tbody");
  const keyed = (rows) => {
    const seen = new Map();
    return [...rows].map((row) => {
      const text = row.innerHTML.replace(/ open(="")?/g, "");
      const count = seen.get(text) ?? 0;
      seen.set(text, count + 1);
      return [`${count} ${text}`, row];
    });
  };
  const known = new Set(keyed(body.rows).map(([key]) => key));
  const look = async () => {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok) {
      live.textContent = "Live has ended: your login is over, or the page cannot be reached.";
      return;
    }
    const text = await answer.text();
    const page = new DOMParser().parseFromString(text, "text/html");
    const fresh = keyed(page.querySelectorAll("main tbody tr")).filter(([key]) => !known.has(key));
    const before = document.documentElement.scrollHeight;
    for (const [key, row] of fresh.reverse()) {
      known.add(key);
      row.classList.add("fresh");
      body.prepend(row);
    }
    const grown = document.documentElement.scrollHeight - before;
    if (window.scrollY > body.getBoundingClientRect().top + window.scrollY) window.scrollBy(0, grown);
    setTimeout(look, 1000 * Number(live.dataset.every));
  };
  setTimeout(look, 1000 * Number(live.dataset.every));
}

// Texts that one takes along.
for (const text of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) break;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  button.textContent = "Copy";
  button.setAttribute("aria-label", `Copy ${text.dataset.copy}`);
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
  });
  const box = text.closest(".copied") ?? text.parentElement;
  box.classList.add("copied");
  box.append(button);
}

// Two minutes before a login ends by itself, and only where nothing has happened since.
const ends = Number(document.body.dataset.ends);
if (ends) {
  const warn = () => {
    const note = document.createElement("p");
    note.className = "note warn ending";
    note.setAttribute("role", "alert");
    note.textContent = "Your login ends in two minutes. What you have typed is kept. ";
    const stay = document.createElement("button");
    stay.type = "button";
    stay.textContent = "Stay logged in";
    stay.addEventListener("click", async () => {
      const answer = await fetch("/ui/password");
      note.remove();
      if (answer.ok) setTimeout(warn, 1000 * (ends - 120));
    });
    note.append(stay);
    document.getElementById("main").prepend(note);
  };
  setTimeout(warn, 1000 * (ends - 120));
}

// Which columns a list shows: one's own choice, which this browser remembers for each list.
for (const wide of document.querySelectorAll("[data-columns]")) {
  const table = wide.querySelector("table");
  const heads = [...table.tHead.rows[0].cells];
  const key = `columns ${wide.dataset.columns}`;
  let hidden = [];
  try { hidden = JSON.parse(localStorage.getItem(key)) ?? []; } catch { /* none is kept */ }
  const show = () => {
    heads.forEach((head, at) => {
      const gone = hidden.includes(head.textContent.trim());
      for (const row of table.rows) if (row.cells[at]) row.cells[at].hidden = gone;
    });
  };
  const box = document.createElement("details");
  box.className = "columns";
  const title = document.createElement("summary");
  title.textContent = "Columns";
  box.append(title);
  heads.forEach((head, at) => {
    const label = head.textContent.trim();
    if (!label || table.tBodies[0].rows[0]?.cells[at]?.tagName === "TH") return;
    const choice = document.createElement("label");
    const input = document.createElement("input");
    input.type = "checkbox";
    input.checked = !hidden.includes(label);
    input.addEventListener("change", () => {
      hidden = hidden.filter((one) => one !== label);
      if (!input.checked) hidden.push(label);
      try { localStorage.setItem(key, JSON.stringify(hidden)); } catch { /* for now only */ }
      show();
    });
    choice.append(input, ` ${label}`);
    box.append(choice);
  });
  wide.before(box);
  show();
}

// All rows of a page at once.
for (const table of document.querySelectorAll("table")) {
  const ticks = table.querySelectorAll("td.tick input");
  if (!ticks.length) continue;
  const all = document.createElement("input");
  all.type = "checkbox";
  all.setAttribute("aria-label", "Choose all on this page");
  all.addEventListener("change", () => { for (const one of ticks) one.checked = all.checked; });
  table.tHead.rows[0].cells[0].append(all);
}

// A time also as the clock of the reader has it. It comes last: what is live compares rows before.
for (const one of document.querySelectorAll("time[datetime]")) {
  const moment = new Date(one.dateTime);
  if (Number.isNaN(moment.getTime())) continue;
  const local = moment.toLocaleString(undefined, { timeZoneName: "short" });
  one.title = one.title ? `${local} (${one.title})` : local;
}
