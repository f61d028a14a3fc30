"use strict";
(() => {
  const svg = document.getElementById("graph");
  if (!svg) return;
  const frame = svg.parentElement, panel = document.getElementById("layer-words");
  const whole = { x: 0, y: 0, w: +svg.dataset.width, h: +svg.dataset.height };
  const layers = [...svg.querySelectorAll(".layer")], chosenEdges = document.getElementById("chosen");
  let view = { ...whole };

  /* ---- what is seen ---- */

  function show() {
    const least = 240;
    view.w = Math.max(least, Math.min(view.w, 4 * whole.w));
    const ratio = svg.clientHeight / Math.max(svg.clientWidth, 1);
    view.h = view.w * ratio;
    svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.w} ${view.h}`);
    const scale = svg.clientWidth / view.w; /* pixels of a unit */
    svg.style.setProperty("--unit", 1 / scale);
    svg.setAttribute("class", scale < 0.28 ? "farthest" : scale < 0.62 ? "far" : "near");
  }
  function fit(box = whole, margin = 0) {
    const ratio = svg.clientWidth / Math.max(svg.clientHeight, 1);
    const w = Math.max(box.w, box.h * ratio) + 2 * margin;
    view = { x: box.x + box.w / 2 - w / 2, y: box.y + box.h / 2 - w / ratio / 2, w, h: w / ratio };
    show();
  }
  function zoom(factor, at) {
    const box = svg.getBoundingClientRect();
    const px = at ? (at.x - box.left) / box.width : 0.5, py = at ? (at.y - box.top) / box.height : 0.5;
    const w = Math.max(240, Math.min(view.w / factor, 4 * whole.w)), h = view.h * w / view.w;
    view = { x: view.x + (view.w - w) * px, y: view.y + (view.h - h) * py, w, h };
    show();
  }
  function pan(dx, dy) {
    const unit = view.w / svg.clientWidth;
    view.x = Math.max(-view.w * 0.8, Math.min(view.x - dx * unit, whole.w - view.w * 0.2));
    view.y = Math.max(-view.h * 0.8, Math.min(view.y - dy * unit, whole.h - view.h * 0.2));
    show();
  }
  const boxOf = (element) => { const b = element.getBBox(); return { x: b.x, y: b.y, w: b.width, h: b.height }; };

  /* ---- buttons, keys, wheel, fingers ---- */

  const actions = { in: () => zoom(1.5), out: () => zoom(1 / 1.5), fit: () => fit() };
  for (const button of document.querySelectorAll("[data-zoom]"))
    button.addEventListener("click", () => actions[button.dataset.zoom]());
  for (const button of document.querySelectorAll("[data-to-stage]"))
    button.addEventListener("click", () => {
      const stage = svg.querySelector(`.stage[data-stage="${button.dataset.toStage}"]`);
      fit(boxOf(stage), 10);
      frame.scrollIntoView({ block: "nearest" });
    });
  frame.addEventListener("keydown", (event) => {
    const step = 60, keys = {
      ArrowLeft: () => pan(step, 0), ArrowRight: () => pan(-step, 0), ArrowUp: () => pan(0, step), ArrowDown: () => pan(0, -step),
      "+": actions.in, "=": actions.in, "-": actions.out, "0": actions.fit, Escape: () => choose(null),
    };
    if (event.target !== frame || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  frame.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey && document.activeElement !== frame) return; /* the page scrolls */
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), { x: event.clientX, y: event.clientY });
  }, { passive: false });

  const fingers = new Map();
  let moved = 0;
  frame.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    if (fingers.size === 0) moved = 0;
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  });
  frame.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const now = { x: event.clientX, y: event.clientY };
    if (fingers.size === 2) {
      const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      const length = (at) => Math.hypot(at.x - other.x, at.y - other.y) || 1;
      zoom(length(now) / length(before), { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 });
    }
    moved += Math.hypot(now.x - before.x, now.y - before.y);
    if (moved > 4) {
      frame.setPointerCapture(event.pointerId);
      pan((now.x - before.x) / fingers.size, (now.y - before.y) / fingers.size);
    }
    fingers.set(event.pointerId, now);
  });
  for (const end of ["pointerup", "pointercancel", "pointerleave"])
    frame.addEventListener(end, (event) => fingers.delete(event.pointerId));

  /* ---- one layer ---- */

  function line(from, to) {
    const a = boxOf(from.querySelector("rect")), b = boxOf(to.querySelector("rect"));
    const path = document.createElementNS("http:" + "//www.w3.org/2000/svg", "path");
    const [ax, ay, bx, by] = [a.x + a.w / 2, a.y + a.h, b.x + b.w / 2, b.y];
    const bend = Math.max(24, Math.abs(by - ay) / 3);
    path.setAttribute("d", `M${ax} ${ay}C${ax} ${ay + bend} ${bx} ${by - bend} ${bx} ${by}`);
    chosenEdges.append(path);
  }
  const inputs = (layer) => layer.dataset.in.split(" ").filter((i) => i !== "-1" && i !== "").map((i) => layers[+i]);
  function choose(layer) {
    for (const one of layers) one.classList.remove("on", "beside");
    chosenEdges.replaceChildren();
    panel.replaceChildren();
    if (!layer) return;
    layer.classList.add("on");
    const readers = layers.filter((other) => inputs(other).includes(layer));
    for (const source of inputs(layer)) { source.classList.add("beside"); line(source, layer); }
    for (const reader of readers) { reader.classList.add("beside"); line(layer, reader); }
    const row = document.getElementById(`layer-${layer.dataset.i}`);
    for (const cell of row.cells) {
      const part = document.createElement("span"), name = document.createElement("b");
      name.textContent = cell.dataset.label ? cell.dataset.label + " " : "";
      part.append(name, cell.textContent.trim());
      panel.append(part);
    }
  }
  svg.addEventListener("click", (event) => {
    if (moved <= 4) choose(event.target.closest(".layer"));
  });
  for (const button of document.querySelectorAll("[data-find]"))
    button.addEventListener("click", () => {
      const layer = layers[+button.dataset.find], box = boxOf(layer.querySelector("rect"));
      fit({ x: box.x - 200, y: box.y - 120, w: box.w + 400, h: box.h + 240 });
      choose(layer);
      frame.scrollIntoView({ block: "center" });
      frame.focus({ preventScroll: true });
    });

  new ResizeObserver(() => show()).observe(svg);
  document.documentElement.classList.add("scripted");
  fit();
  addEventListener("beforeprint", () => fit());
})();
