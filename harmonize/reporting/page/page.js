// Sorting of tables and highlighting of a row in all figures. The page reads without it.
(() => {
  "use strict";
  const marked = (key) => document.querySelectorAll(`[data-m="${CSS.escape(key)}"]`);
  let pinned = new Set();
  let hovered = null;
  const paint = (key, on) => marked(key).forEach((e) => {
    e.classList.toggle("on", on);
    if (on && e.ownerSVGElement && !e.classList.contains("mark")) e.parentNode.appendChild(e);
  });
  const keyOf = (event) => event.target.closest && event.target.closest("[data-m]")?.dataset.m;
  const hover = (key) => {
    if (key === hovered) return;
    if (hovered && !pinned.has(hovered)) paint(hovered, false);
    hovered = key || null;
    if (hovered) paint(hovered, true);
  };
  document.addEventListener("pointerover", (event) => { if (event.pointerType !== "touch") hover(keyOf(event)); });
  document.addEventListener("focusin", (event) => hover(keyOf(event)));
  document.addEventListener("click", (event) => {
    const chip = event.target.closest(".chip");
    if (chip) {
      const key = chip.dataset.m;
      if (pinned.has(key)) pinned.delete(key); else pinned.add(key);
      paint(key, pinned.has(key));
      hovered = null;
      chip.setAttribute("aria-pressed", pinned.has(key));
    }
    const head = event.target.closest("th[data-sort]");
    if (head) sort(head);
  });
  document.addEventListener("keydown", (event) => {
    const head = event.target.closest && event.target.closest("th[data-sort]");
    if (head && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); sort(head); }
  });
  const sort = (head) => {
    const place = head.cellIndex, body = head.closest("table").tBodies[0];
    const down = head.getAttribute("aria-sort") === "ascending";
    head.parentNode.querySelectorAll("th").forEach((th) => th.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => {
      const cell = row.cells[place], given = cell.dataset.v ?? cell.textContent.trim();
      const n = Number(given);
      return given === "" || given === "–" ? null : Number.isNaN(n) ? given : n;
    };
    const order = (a, b) => {
      const x = value(a), y = value(b);
      if (x === null || y === null) return (x === null) - (y === null);
      const found = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
      return down ? -found : found;
    };
    [...body.rows].sort(order).forEach((row) => body.appendChild(row));
  };
  document.querySelectorAll("th[data-sort]").forEach((th) => { th.tabIndex = 0; th.setAttribute("role", "columnheader"); });
  document.documentElement.classList.add("js");
})();
