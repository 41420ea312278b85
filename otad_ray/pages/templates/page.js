"use strict";
// Tables: a click on a column's head sorts by it. Without this program they are plain tables.
function sortTable(head) {
  const table = head.closest("table"), body = table.tBodies[0], place = head.cellIndex;
  const isDescending = head.getAttribute("aria-sort") === "ascending";
  const keys = new Map(Array.from(body.rows, (row) => {
    const cell = row.cells[place];
    return [row, "key" in cell.dataset ? Number(cell.dataset.key) : cell.textContent.trim()];
  }));
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b
    : typeof a === typeof b ? a.localeCompare(b) : typeof a === "number" ? -1 : 1;
  const rows = Array.from(body.rows).sort((a, b) => compare(keys.get(a), keys.get(b)));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", isDescending ? "descending" : "ascending");
  body.append(...(isDescending ? rows.reverse() : rows));
}
for (const head of document.querySelectorAll("thead th")) {
  const button = document.createElement("button");
  button.textContent = head.textContent;
  head.replaceChildren(button);
  button.addEventListener("click", () => sortTable(head));
}
// Figures: drawn as soon as they can be seen.
const plots = document.getElementById("plots");
if (plots !== null) {
  const figures = JSON.parse(plots.textContent);
  const draw = (place) => {
    const figure = figures[Number(place.dataset.plot)];
    const isNarrow = window.innerWidth < 640;
    const legend = isNarrow ? { orientation: "h", y: -0.3 } : {};
    Plotly.newPlot(place, figure.traces, { ...figure.layout, legend }, { responsive: true, displaylogo: false, displayModeBar: false });
  };
  const observer = new IntersectionObserver((seen) => {
    for (const entry of seen.filter((item) => item.isIntersecting)) {
      observer.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "400px" });
  for (const place of document.querySelectorAll(".plot")) observer.observe(place);
}
