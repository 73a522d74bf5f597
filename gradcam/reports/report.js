"use strict";
const at = (id) => document.getElementById(id);
const home = at("samples");
const all = [...home.children];
const PER_PAGE = 100;
let page = 0;

function share(input) {
  input.parentElement.querySelector("output").value = `${input.value} %`;
  return input.value / 100;
}

function opacity() {
  document.documentElement.style.setProperty("--opacity", share(at("opacity")));
}

// A layer's opacity is the square root of its map: a share t of the maximum is an alpha of root t.
function threshold() {
  const t = share(at("threshold-of"));
  document.documentElement.classList.toggle("thresholded", t > 0);
  const steps = Array.from({ length: 256 }, (_, k) => (k / 255 < Math.sqrt(t) ? 0 : k / 255));
  const alpha = at("threshold").querySelector("feFuncA");
  alpha.setAttribute("type", t > 0 ? "discrete" : "identity");
  alpha.setAttribute("tableValues", steps.join(" "));
}

function opened() {
  const id = location.hash.slice(1);
  return all.find((one) => one.id === id) || null;
}

function matching() {
  const text = at("find").value.trim().toLowerCase();
  const name = at("class").value;
  const only = [...document.querySelectorAll("input[name=only]:checked")].map((one) => one.value);
  return all.filter((one) => {
    const data = one.dataset;
    const flags = data.flags.split(" ");
    return (!text || `${data.name} ${data.class || ""}`.toLowerCase().includes(text))
      && (!name || data.class === name)
      && (!only.length || only.some((flag) => flags.includes(flag)));
  });
}

function sorted(some) {
  const key = at("sort").value;
  const field = key.replace("-", "");
  const sign = key.startsWith("-") ? -1 : 1;
  const value = (one) => one.dataset[field];
  return [...some].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    if (field === "name" || field === "class") return x.localeCompare(y) || a.dataset.order - b.dataset.order;
    return sign * (x - y) || a.dataset.order - b.dataset.order;
  });
}

let order = all;

function show() {
  order = sorted(matching());
  const pages = Math.max(1, Math.ceil(order.length / PER_PAGE));
  page = Math.min(page, pages - 1);
  const single = opened();
  const visible = new Set(single ? [single] : order.slice(page * PER_PAGE, (page + 1) * PER_PAGE));
  for (const one of order) home.append(one);
  for (const one of all) {
    one.hidden = !visible.has(one);
    one.classList.toggle("open", one === single);
  }
  at("count").value = single ? "1 shown" : `${order.length} of ${all.length}`;
  const buttons = [];
  if (single) {
    buttons.push(button("all samples", () => turn("")));
  } else if (pages > 1) {
    for (let n = 0; n < pages; n += 1) {
      const one = button(`${n + 1}`, () => { page = n; show(); scrollTo(0, 0); });
      one.setAttribute("aria-label", `page ${n + 1}`);
      if (n === page) one.setAttribute("aria-current", "page");
      buttons.push(one);
    }
  }
  at("pages").replaceChildren(...buttons);
}

function button(text, act) {
  const one = document.createElement("button");
  one.type = "button";
  one.textContent = text;
  one.addEventListener("click", act);
  return one;
}

// The event of a new hash comes later; what is shown must not wait for it.
function turn(id) {
  location.hash = id;
  arrive();
}

function arrive() {
  show();
  const single = opened();
  if (single) {
    single.focus();
    scrollTo(0, 0);
  }
}

function current() {
  return opened() || order.find((one) => one === document.activeElement?.closest("article")) || null;
}

function go(step) {
  if (!order.length) return;
  const now = order.indexOf(current());
  const next = order[Math.min(Math.max(now < 0 ? 0 : now + step, 0), order.length - 1)];
  if (opened()) {
    turn(next.id);
  } else {
    page = Math.floor(order.indexOf(next) / PER_PAGE);
    show();
    next.focus();
    next.scrollIntoView({ block: "nearest" });
  }
}

function nudge(input, step) {
  input.value = Number(input.value) + step;
  input.dispatchEvent(new Event("input"));
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const inField = event.target.matches("input, select");
  if (event.key === "Escape") {
    if (inField) event.target.blur();
    else turn("");
    return;
  }
  if (inField) return;
  const keys = {
    j: () => go(1), k: () => go(-1), ArrowRight: () => go(1), ArrowLeft: () => go(-1),
    "/": () => at("find").focus(),
    o: () => nudge(at("opacity"), -10), O: () => nudge(at("opacity"), 10),
    t: () => nudge(at("threshold-of"), -10), T: () => nudge(at("threshold-of"), 10),
    Enter: () => { if (current() && event.target.matches("article")) turn(current().id); },
  };
  const act = keys[event.key];
  if (!act) return;
  if (event.key !== "Enter") event.preventDefault();
  act();
});

at("opacity").addEventListener("input", opacity);
at("threshold-of").addEventListener("input", threshold);
for (const id of ["sort", "class", "find"]) {
  at(id).addEventListener("input", () => { page = 0; show(); });
}
for (const box of document.querySelectorAll("input[name=only]")) {
  box.addEventListener("input", () => { page = 0; show(); });
}
document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
addEventListener("hashchange", arrive);
opacity();
threshold();
show();
