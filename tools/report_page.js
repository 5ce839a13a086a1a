"use strict";
// Sorts the table of scores by the column that is clicked; everything else works without a script.
document.querySelectorAll("table.scores").forEach(function (table) {
  const buttons = Array.from(table.querySelectorAll("thead button"));
  buttons.forEach(function (button) {
    button.addEventListener("click", function () {
      const column = button.closest("th").cellIndex;
      const down = button.getAttribute("aria-sort") !== "descending";
      buttons.forEach(function (other) { other.removeAttribute("aria-sort"); });
      button.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const value = function (row) { return row.cells[column].dataset.value; };
      const rows = Array.from(body.rows).sort(function (a, b) {
        const x = value(a), y = value(b), numbers = Number(y) - Number(x);
        const order = Number.isNaN(numbers) ? x.localeCompare(y) : numbers;
        return down ? order : -order;
      });
      rows.forEach(function (row) { body.appendChild(row); });
    });
  });
});
