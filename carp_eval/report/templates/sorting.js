"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const told = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const read = (text) => Number(text.replace(/[,<\s]/g, ""));
  const compare = (a, b, down) => {
    // What has no value stands last, whichever way.
    if (a === "" || b === "") return (a === "") - (b === "");
    const numbers = read(a) - read(b);
    const order = Number.isNaN(numbers) ? a.localeCompare(b) : numbers;
    return down ? -order : order;
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      // Numbers are looked at from the highest down.
      const number = head.classList.contains("number");
      const before = head.getAttribute("aria-sort");
      const down = before === null ? number : before === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [told(row, column), row]);
      rows.sort(([a], [b]) => compare(a, b, down));
      body.append(...rows.map(([, row]) => row));
    });
  });
}
for (const field of document.querySelectorAll("input[data-filters]")) {
  const table = document.getElementById(field.dataset.filters);
  field.closest("form").hidden = false;
  field.closest("form").addEventListener("submit", (event) => event.preventDefault());
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}
