"use strict";
(() => {
  // Tabs: without this script they are links to the parts, which then all stand below each other.
  const list = document.getElementById("tabs");
  const tabs = [...list.querySelectorAll("a")];
  const panels = tabs.map((tab) => document.getElementById(tab.hash.slice(1)));
  const drawers = new Map();
  const choose = (place, focus) => {
    tabs.forEach((tab, number) => {
      const on = number === place;
      tab.setAttribute("aria-selected", String(on));
      tab.tabIndex = on ? 0 : -1;
      panels[number].hidden = !on;
    });
    if (focus) tabs[place].focus();
    for (const draw of drawers.get(panels[place]) || []) draw();
  };
  const show = (hash) => {
    const target = hash.length > 1 ? document.getElementById(hash.slice(1)) : null;
    const place = target === null ? -1 : panels.findIndex((panel) => panel.contains(target));
    if (place < 0) return;
    choose(place, false);
    if (target instanceof HTMLDetailsElement) target.open = true;
    if (target !== panels[place]) target.scrollIntoView();
  };
  list.setAttribute("role", "tablist");
  tabs.forEach((tab, place) => {
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", panels[place].id);
    panels[place].setAttribute("role", "tabpanel");
    tab.addEventListener("click", (event) => { event.preventDefault(); choose(place, true); });
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to !== undefined) { event.preventDefault(); choose((to + tabs.length) % tabs.length, true); }
      if (event.key === " ") { event.preventDefault(); choose(place, true); }
    });
  });
  document.querySelectorAll('main a[href^="#"]').forEach((link) => {
    link.addEventListener("click", (event) => { event.preventDefault(); show(link.hash); });
  });
  window.addEventListener("hashchange", () => show(location.hash));
  // On paper everything is shown, and what is drawn is drawn by then.
  const closed = [];
  let before = 0;
  window.addEventListener("beforeprint", () => {
    before = panels.findIndex((panel) => !panel.hidden);
    for (const panel of panels) panel.hidden = false;
    for (const one of document.querySelectorAll("details:not([open])")) { one.open = true; closed.push(one); }
    for (const some of drawers.values()) for (const draw of some) draw();
  });
  window.addEventListener("afterprint", () => {
    for (const one of closed.splice(0)) one.open = false;
    choose(before, false);
  });

  // Filtering of the scores; sorting is any table's own.
  const filters = document.getElementById("filters");
  if (filters !== null) {
    const rows = [...document.querySelectorAll("#scores-table tbody tr")];
    const fields = filters.elements;
    const filter = () => {
      const words = fields.words.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const chosen = ["model", "protocol", "dataset"].every(
          (name) => fields[name].value === "" || fields[name].value === row.dataset[name]);
        const text = words.length ? row.textContent.toLowerCase() : "";
        const found = words.every((word) => text.includes(word));
        row.hidden = !(chosen && found && (fields.every.checked || row.dataset.side === undefined));
        shown += row.hidden ? 0 : 1;
      }
      document.getElementById("count").textContent = `${shown} of ${rows.length} scores`;
    };
    filters.hidden = false;
    filters.addEventListener("input", filter);
    filters.addEventListener("submit", (event) => event.preventDefault());
    filter();
  }

  // Maps: all points are drawn once onto a canvas behind, which is copied when the pointer moves.
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  for (const place of document.querySelectorAll(".map")) {
    const { data, sheets, shapes } = JSON.parse(document.getElementById(place.dataset.map).textContent);
    const canvas = place.querySelector(".stage > canvas");
    const close = place.querySelector("canvas.close");
    const words = place.querySelector(".card p");
    const form = place.querySelector("form");
    const paths = shapes.map((shape) => new Path2D(shape));
    const pictures = sheets.map((address) => { const image = new Image(); image.src = address; return image; });
    const field = new Map(data.pictured.map((point, number) => [point, number]));
    const wrong = new Set(data.wrong);
    const count = data.x.length;
    const grid = 4000;
    const behind = document.createElement("canvas");
    const view = { scale: 1, x: grid / 2, y: grid / 2 };
    let chosen = -1;
    let stale = true;
    let asked = false;
    const side = () => Math.min(canvas.width, canvas.height) * 0.94 * view.scale / grid;
    const across = (point) => (data.x[point] - view.x) * side() + canvas.width / 2;
    const down = (point) => canvas.height / 2 - (data.y[point] - view.y) * side();
    // Asked of each point: the form is read when it changes, not then.
    let only = { label: -1, wrong: false };
    const visible = (point) => (only.label < 0 || only.label === data.label[point]) && (!only.wrong || wrong.has(point));
    const paint = () => {
      behind.width = canvas.width;
      behind.height = canvas.height;
      const pen = behind.getContext("2d");
      const style = getComputedStyle(document.documentElement);
      const hues = Array.from({ length: 8 }, (_, hue) => style.getPropertyValue(`--hue${hue}`).trim());
      const size = (count > 5000 ? 0.45 : 0.7) * Math.min(2, Math.sqrt(view.scale));
      // Copying a small picture of a mark is much faster than filling its outline anew.
      const reach = Math.ceil(6 * size);
      const stamps = data.classes.slice(0, 40).map((_, label) => {
        const stamp = document.createElement("canvas");
        stamp.width = 2 * reach;
        stamp.height = 2 * reach;
        const ink = stamp.getContext("2d");
        ink.setTransform(size, 0, 0, size, reach, reach);
        ink.fillStyle = hues[label % 8];
        ink.fill(paths[label % paths.length]);
        return stamp;
      });
      for (const faint of [true, false]) {
        pen.globalAlpha = faint ? 0.08 : 0.75;
        for (let point = 0; point < count; point += 1) {
          if (visible(point) === faint) continue;
          const x = across(point);
          const y = down(point);
          if (x < -5 || y < -5 || x > canvas.width + 5 || y > canvas.height + 5) continue;
          pen.drawImage(stamps[data.label[point] % 40], x - reach, y - reach);
        }
      }
      stale = false;
    };
    const draw = () => {
      asked = false;
      if (canvas.offsetParent === null) return;
      if (stale) paint();
      const pen = canvas.getContext("2d");
      pen.clearRect(0, 0, canvas.width, canvas.height);
      pen.drawImage(behind, 0, 0);
      if (chosen < 0) return;
      pen.strokeStyle = getComputedStyle(canvas).color;
      pen.lineWidth = 2;
      pen.beginPath();
      pen.arc(across(chosen), down(chosen), 8, 0, 7);
      pen.stroke();
    };
    const redraw = (all) => {
      stale = stale || all;
      if (!asked) { asked = true; requestAnimationFrame(draw); }
    };
    const tell = (point) => {
      if (point === chosen) return;
      chosen = point;
      const pen = close.getContext("2d");
      pen.clearRect(0, 0, close.width, close.height);
      if (point >= 0) {
        const number = field.get(point);
        if (number !== undefined) {
          const sheet = pictures[Math.floor(number / data.on_sheet)];
          const inside = number % data.on_sheet;
          const left = (inside % data.columns) * data.side;
          const top = Math.floor(inside / data.columns) * data.side;
          pen.imageSmoothingEnabled = false;
          if (sheet.complete) pen.drawImage(sheet, left, top, data.side, data.side, 0, 0, close.width, close.height);
        }
        const answered = wrong.size ? (wrong.has(point) ? ", answered wrong ✗" : ", answered right ✓") : "";
        words.textContent = `${data.classes[data.label[point]]}${answered}: ${data.keys[point]}${number === undefined ? " (no picture)" : ""}`;
      } else {
        words.textContent = "";
      }
      redraw(false);
    };
    const nearest = (x, y, reach, fits) => {
      let best = -1;
      let least = reach * reach;
      for (let point = 0; point < count; point += 1) {
        const dx = across(point) - x;
        const dy = down(point) - y;
        const distance = dx * dx + dy * dy;
        if (distance < least && visible(point) && (fits === undefined || fits(dx, dy, point))) { best = point; least = distance; }
      }
      return best;
    };
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
    };
    const zoom = (factor, x, y) => {
      const scale = Math.max(1, Math.min(60, view.scale * factor));
      const [dx, dy] = [x - canvas.width / 2, canvas.height / 2 - y];
      const before = side();
      view.scale = scale;
      view.x += dx / before - dx / side();
      view.y += dy / before - dy / side();
      redraw(true);
    };
    let held = null;
    canvas.addEventListener("pointerdown", (event) => {
      held = at(event);
      canvas.setPointerCapture(event.pointerId);
      canvas.focus();
    });
    canvas.addEventListener("pointerup", () => { held = null; });
    canvas.addEventListener("pointermove", (event) => {
      const [x, y] = at(event);
      if (held !== null) {
        view.x -= (x - held[0]) / side();
        view.y += (y - held[1]) / side();
        held = [x, y];
        redraw(true);
      } else {
        tell(nearest(x, y, 14));
      }
    });
    canvas.addEventListener("wheel", (event) => {
      // Whoever only scrolls past must not be held up.
      if (document.activeElement !== canvas) return;
      event.preventDefault();
      zoom(event.deltaY < 0 ? 1.25 : 0.8, ...at(event));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      const middle = [canvas.width / 2, canvas.height / 2];
      if (way !== undefined) {
        event.preventDefault();
        if (chosen < 0) { tell(nearest(...middle, 1e9)); return; }
        const along = (dx, dy, point) => point !== chosen && dx * way[0] + dy * way[1] > Math.abs(dx * way[1]) + Math.abs(dy * way[0]);
        const next = nearest(across(chosen), down(chosen), 1e9, along);
        if (next >= 0) tell(next);
      }
      if (event.key === "+" || event.key === "=") zoom(1.25, ...middle);
      if (event.key === "-") zoom(0.8, ...middle);
      if (event.key === "0") { Object.assign(view, { scale: 1, x: grid / 2, y: grid / 2 }); redraw(true); }
    });
    form.addEventListener("input", () => {
      const label = form.elements.class.value;
      only = { label: label === "" ? -1 : Number(label), wrong: form.elements.wrong?.checked ?? false };
      redraw(true);
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    dark.addEventListener("change", () => redraw(true));
    const panel = place.closest(".panel");
    drawers.set(panel, [...(drawers.get(panel) || []), draw]);
    form.hidden = false;
  }

  choose(0, false);
  show(location.hash);
})();
