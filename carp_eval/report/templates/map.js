"use strict";
// Points on a canvas: they are pointed at, walked through by keys, come nearer, and are picked. All are drawn once onto a
// canvas behind, which is copied when the pointer moves.
const pointMap = (canvas, data, shapes, { visible, told, picked = () => {}, marks = () => [] }) => {
  const paths = shapes.map((shape) => new Path2D(shape));
  const count = data.x.length;
  const grid = 4000;
  const looks = 40;
  const behind = document.createElement("canvas");
  const view = { scale: 1, x: grid / 2, y: grid / 2 };
  let chosen = -1;
  let stale = true;
  let asked = false;
  // As large as both axes, on one scale, find room; they have the grid's middle in common.
  const reach = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value - grid / 2)), 1);
  const fit = 0.47 * Math.min(canvas.width / reach(data.x), canvas.height / reach(data.y));
  const side = () => fit * view.scale;
  const left = (x) => (x - view.x) * side() + canvas.width / 2;
  const top = (y) => canvas.height / 2 - (y - view.y) * side();
  const across = (point) => left(data.x[point]);
  const down = (point) => top(data.y[point]);
  const paint = () => {
    behind.width = canvas.width;
    behind.height = canvas.height;
    const pen = behind.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const hues = Array.from({ length: 8 }, (_, hue) => style.getPropertyValue(`--hue${hue}`).trim());
    const size = (count > 5000 ? 0.45 : 0.7) * Math.min(2, Math.sqrt(view.scale));
    // Copying a small picture of a mark is much faster than filling its outline anew.
    const half = Math.ceil(6 * size);
    const stamps = Array.from({ length: looks }, (_, look) => {
      const stamp = document.createElement("canvas");
      stamp.width = 2 * half;
      stamp.height = 2 * half;
      const ink = stamp.getContext("2d");
      ink.setTransform(size, 0, 0, size, half, half);
      ink.fillStyle = hues[look % 8];
      ink.fill(paths[look % paths.length]);
      return stamp;
    });
    for (const faint of [true, false]) {
      pen.globalAlpha = faint ? 0.08 : 0.75;
      for (let point = 0; point < count; point += 1) {
        if (visible(point) === faint) continue;
        const x = across(point);
        const y = down(point);
        if (x < -5 || y < -5 || x > canvas.width + 5 || y > canvas.height + 5) continue;
        // What has no class has the number -1.
        pen.drawImage(stamps[(data.label[point] + looks) % looks], x - half, y - half);
      }
    }
    stale = false;
  };
  const circle = (pen, x, y, radius) => {
    pen.beginPath();
    pen.arc(x, y, radius, 0, 7);
    pen.stroke();
  };
  const draw = () => {
    asked = false;
    if (canvas.offsetParent === null) return;
    if (stale) paint();
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(behind, 0, 0);
    pen.strokeStyle = getComputedStyle(canvas).color;
    for (const { x, y, first } of marks()) {
      pen.lineWidth = first ? 3 : 1.5;
      circle(pen, left(x), top(y), first ? 11 : 6);
      if (!first) continue;
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        pen.beginPath();
        pen.moveTo(left(x) + 11 * dx, top(y) + 11 * dy);
        pen.lineTo(left(x) + 18 * dx, top(y) + 18 * dy);
        pen.stroke();
      }
    }
    if (chosen < 0) return;
    pen.lineWidth = 2;
    circle(pen, across(chosen), down(chosen), 8);
  };
  const redraw = (all) => {
    stale = stale || all;
    if (!asked) { asked = true; requestAnimationFrame(draw); }
  };
  const choose = (point) => {
    if (point === chosen) return;
    chosen = point;
    told(point);
    redraw(false);
  };
  const nearest = (x, y, within, fits) => {
    let best = -1;
    let least = within * within;
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
  let moved = 0;
  canvas.addEventListener("pointerdown", (event) => {
    held = at(event);
    moved = 0;
    canvas.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
  });
  canvas.addEventListener("pointerup", (event) => {
    // A hand that clicks is not quite still.
    if (held !== null && moved < 4) {
      const point = nearest(...at(event), 14);
      if (point >= 0) picked(point);
    }
    held = null;
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    if (held !== null) {
      moved += Math.abs(x - held[0]) + Math.abs(y - held[1]);
      view.x -= (x - held[0]) / side();
      view.y += (y - held[1]) / side();
      held = [x, y];
      redraw(true);
    } else {
      choose(nearest(x, y, 14));
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
      if (chosen < 0) { choose(nearest(...middle, 1e9)); return; }
      const along = (dx, dy, point) => point !== chosen && dx * way[0] + dy * way[1] > Math.abs(dx * way[1]) + Math.abs(dy * way[0]);
      const next = nearest(across(chosen), down(chosen), 1e9, along);
      if (next >= 0) choose(next);
    }
    if (event.key === "Enter" && chosen >= 0) { event.preventDefault(); picked(chosen); }
    if (event.key === "+" || event.key === "=") zoom(1.25, ...middle);
    if (event.key === "-") zoom(0.8, ...middle);
    if (event.key === "0") { Object.assign(view, { scale: 1, x: grid / 2, y: grid / 2 }); redraw(true); }
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw(true));
  return { draw, redraw };
};
