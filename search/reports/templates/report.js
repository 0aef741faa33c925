(() => {
  "use strict";
  const narrow = matchMedia("(max-width: 560px)");
  const touch = matchMedia("(hover: none), (pointer: coarse)");
  const stored = (id) => JSON.parse(document.getElementById(id).textContent);
  const template = stored("template");  // drawn in light colours; the style sheet inverts them for the dark scheme

  const CONFIG = {
    responsive: true, displaylogo: false, scrollZoom: false,
    displayModeBar: touch.matches ? false : "hover",  // where nothing hovers it would stay, and cover legends
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
  };

  function draw(plot) {
    const { data, layout } = stored("figure-" + plot.dataset.figure);
    Object.assign(layout, { template, height: plot.offsetHeight, autosize: true });
    if (touch.matches) layout.dragmode = false;  // a finger scrolls the page, not the chart
    if (narrow.matches) {
      const scrolls = plot.offsetWidth > plot.parentElement.offsetWidth;
      if (!scrolls) layout.margin = { ...layout.margin, l: 8, r: 28 };
      if (layout.legend?.orientation === "v") layout.legend = { traceorder: layout.legend.traceorder };  // above
      if (data.filter((trace) => trace.showlegend !== false && trace.name).length > 5) layout.showlegend = false;
    }
    plot.dataset.state = "drawing";
    return Plotly.react(plot, data, layout, CONFIG).then(
      () => { plot.dataset.state = "drawn"; },
      (error) => failed(plot, error),
    );
  }

  function failed(plot, error) {
    plot.dataset.state = "failed";
    plot.style.height = "auto";
    plot.textContent = "This figure could not be drawn here: " + error;
    plot.className = "note";
  }

  function attempt(plot) {
    try { return draw(plot); } catch (error) { failed(plot, error); return Promise.resolve(); }
  }

  const plots = [...document.querySelectorAll("[data-figure]")];
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { near.unobserve(entry.target); attempt(entry.target); }
    }
  }, { rootMargin: "500px 0px" });
  // plotly stands at the end of the file and takes a second or two: tables work before it
  addEventListener("DOMContentLoaded", () => plots.forEach((plot) => near.observe(plot)));

  narrow.addEventListener("change", () => plots.filter((plot) => plot.dataset.state === "drawn").forEach(attempt));
  addEventListener("beforeprint", () => plots.filter((plot) => !plot.dataset.state).forEach(attempt));

  // Tables ----------------------------------------------------------------------------------------------------------
  function key(row, column) {
    const cell = row.cells[column];
    const text = cell.dataset.v ?? cell.textContent.trim();
    if (text === "" || text === "–") return null;
    const number = Number(text);
    return Number.isNaN(number) ? text.toLowerCase() : number;
  }

  function compare(a, b) {
    if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
    return typeof a === "number" ? -1 : 1;
  }

  function sort(table, column) {
    const head = table.tHead.rows[0].cells[column];
    const rows = [...table.tBodies[0].rows].map((row) => [key(row, column), row]);
    const numeric = rows.some(([value]) => typeof value === "number");
    const before = head.getAttribute("aria-sort");
    const first = numeric && column !== 0 && column !== 1 ? "descending" : "ascending";
    const order = before ? (before === "ascending" ? "descending" : "ascending") : first;
    for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)));
    table.tBodies[0].append(...rows.map(([, row]) => row));
    limit(table);
  }

  function limit(table) {
    const shown = Number(table.dataset.shown) || Infinity;
    [...table.tBodies[0].rows].forEach((row, i) => { row.hidden = i >= shown; });
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((cell, column) => cell.addEventListener("click", () => sort(table, column)));
  }
  for (const button of document.querySelectorAll("[data-more]")) {
    const table = document.querySelector("#" + button.dataset.more + " table");
    const [more, few] = [button.textContent, table.dataset.shown];
    button.addEventListener("click", () => {
      const all = table.dataset.shown !== "all";
      table.dataset.shown = all ? "all" : few;
      button.textContent = all ? "Show the first " + few : more;
      limit(table);
    });
  }

  // The section in view ---------------------------------------------------------------------------------------------
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach((link) => link.classList.remove("here"));
      const here = links.get(entry.target.id) || links.get("top");
      here.classList.add("here");
      const nav = here.parentElement;  // on a phone it is wider than the screen
      nav.scrollLeft = here.offsetLeft - (nav.clientWidth - here.offsetWidth) / 2;
    }
  }, { rootMargin: "-30% 0px -65% 0px" });
  document.querySelectorAll("section").forEach((section) => seen.observe(section));
})();
