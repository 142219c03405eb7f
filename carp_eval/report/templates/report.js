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

  // Maps, which say what is pointed at.
  for (const place of document.querySelectorAll(".map")) {
    const { data, sheets, shapes } = JSON.parse(document.getElementById(place.dataset.map).textContent);
    const close = place.querySelector("canvas.close");
    const words = place.querySelector(".card p");
    const form = place.querySelector("form");
    const pictures = sheets.map((address) => { const image = new Image(); image.src = address; return image; });
    const field = new Map(data.pictured.map((point, number) => [point, number]));
    const wrong = new Set(data.wrong);
    // Asked of each point: the form is read when it changes, not then.
    let only = { label: -1, wrong: false };
    const visible = (point) => (only.label < 0 || only.label === data.label[point]) && (!only.wrong || wrong.has(point));
    const told = (point) => {
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
        words.textContent = "No image is pointed at.";
      }
    };
    const map = pointMap(place.querySelector(".stage > canvas"), data, shapes, { visible, told });
    form.addEventListener("input", () => {
      const label = form.elements.class.value;
      only = { label: label === "" ? -1 : Number(label), wrong: form.elements.wrong?.checked ?? false };
      map.redraw(true);
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    const panel = place.closest(".panel");
    drawers.set(panel, [...(drawers.get(panel) || []), map.draw]);
    form.hidden = false;
  }

  choose(0, false);
  show(location.hash);
})();
