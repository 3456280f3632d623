"use strict";
const find = (selector, page = document) => page.querySelector(selector);
const style = find("style").textContent;
let timer;
// The picture whose value is shown, and how many steps ago that was.
let shown = null;

function show(picture, ago) {
  if (shown) clear();
  const values = picture.dataset.values.split("|");
  const width = picture.viewBox.baseVal.width;
  const back = Math.max(0, Math.min(ago, width - 1));
  const at = width - back - 0.5;
  find(".mark", picture).setAttribute("d", `M${at} 0V${picture.viewBox.baseVal.height}`);
  const said = find("output", picture.parentElement);
  const seconds = back * picture.dataset.step;
  const when = seconds === 0 ? "now" : seconds < 60 ? `${seconds} s ago` : `${Math.floor(seconds / 60)} min ${seconds % 60} s ago`;
  said.textContent = `${when}: ${values[values.length - 1 - back] || "\u2013"}`;
  const left = picture.clientWidth || picture.getBoundingClientRect().width;
  const half = said.offsetWidth / 2;
  said.style.left = `${Math.max(half, Math.min((at / width) * left, left - half))}px`;
  shown = { id: picture.id, picture, back };
}

function clear() {
  find(".mark", shown.picture).setAttribute("d", "");
  find("output", shown.picture.parentElement).textContent = "";
  shown = null;
}

const pictured = (event) => event.target.closest?.(".picture svg");

document.addEventListener("pointermove", (event) => {
  const picture = pictured(event);
  if (!picture) return void (shown && document.activeElement !== shown.picture && clear());
  const box = picture.getBoundingClientRect();
  const width = picture.viewBox.baseVal.width;
  show(picture, width - 1 - Math.floor(((event.clientX - box.left) / box.width) * width));
});
document.addEventListener("focusin", (event) => {
  const picture = pictured(event);
  if (picture && shown?.id !== picture.id) show(picture, 0);
});
document.addEventListener("focusout", () => shown && clear());
document.addEventListener("keydown", (event) => {
  const picture = pictured(event);
  const step = { ArrowLeft: 1, ArrowRight: -1 }[event.key];
  if (!picture || !step) return;
  event.preventDefault();
  show(picture, (shown?.back ?? 0) + step);
});

function swap(page) {
  for (const open of document.querySelectorAll("details[open]")) {
    const same = page.getElementById(open.id);
    if (same) same.open = true;
  }
  const focused = document.activeElement.id;
  const before = shown;
  shown = null;
  for (const part of ["title", "#headline", "#about", "main"]) {
    const [old, fresh] = [find(part), find(part, page)];
    if (old.innerHTML !== fresh.innerHTML) old.replaceChildren(...fresh.childNodes);
  }
  find("link[rel=icon]").href = find("link[rel=icon]", page).href;
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  const same = before && document.getElementById(before.id);
  if (same) show(same, before.back);
}

function lost() {
  document.title = "kielink: not reachable";
  if (document.documentElement.dataset.level === "lost") return;
  document.documentElement.dataset.level = "lost";
  find("#headline").replaceChildren(find("#lost").content.cloneNode(true));
  find("#headline h1").append(` since ${new Date().toISOString().slice(11, 19)} UTC`);
}

async function refresh() {
  clearTimeout(timer);
  if (document.hidden) return;
  timer = setTimeout(refresh, 5000);
  try {
    const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(4000) });
    if (!answer.ok) throw new Error(answer.statusText);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    // Another kielink answers here now: it brings its own style and script.
    if (find("style", page)?.textContent !== style) return location.reload();
    const held = getSelection().type === "Range";
    document.body.classList.toggle("held", held);
    if (held) return;
    swap(page);
    document.documentElement.dataset.level = page.documentElement.dataset.level;
  } catch {
    lost();
  }
}

document.addEventListener("visibilitychange", refresh);
timer = setTimeout(refresh, 5000);
