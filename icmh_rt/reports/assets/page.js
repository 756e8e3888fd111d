"use strict";

// Light or dark: what the reader's system asks for, until the button says otherwise.
(() => {
  const root = document.documentElement;
  const dark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const button = document.querySelector("[data-theme-switch]");
  const name = () => { button.textContent = dark() ? "Light" : "Dark"; };
  name();
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    name();
  });
})();

// Charts: the nearest point says its text; lines go and come with their button.
for (const chart of document.querySelectorAll(".chart")) {
  const tip = chart.querySelector(".tip");
  const hidden = new Set();
  for (const button of chart.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const away = button.getAttribute("aria-pressed") === "true";
      button.setAttribute("aria-pressed", String(!away));
      hidden[away ? "add" : "delete"](button.dataset.series);
      for (const line of chart.querySelectorAll(`.series[data-series="${button.dataset.series}"]`)) {
        line.classList.toggle("away", away);
      }
    });
  }
  for (const svg of chart.querySelectorAll(".chart-wide svg, .chart-narrow svg")) {
    const cursor = svg.querySelector(".cursor");
    const points = [...svg.querySelectorAll(".point")].map((mark) => {
      const text = mark.querySelector("title").textContent;
      mark.querySelector("title").remove(); // or the browser shows a second, slower tip
      return { x: +mark.dataset.x, y: +mark.dataset.y, text, series: mark.parentNode.dataset.series };
    });
    const visible = () => points.filter((point) => !hidden.has(point.series));
    let current = null;
    const show = (point) => {
      current = point;
      const box = svg.getBoundingClientRect();
      const outer = chart.getBoundingClientRect();
      const scale = box.width / svg.viewBox.baseVal.width;
      cursor.setAttribute("cx", point.x);
      cursor.setAttribute("cy", point.y);
      cursor.removeAttribute("hidden");
      tip.textContent = point.text;
      tip.hidden = false;
      const x = box.left - outer.left + point.x * scale;
      const y = box.top - outer.top + point.y * scale;
      const left = Math.max(0, Math.min(x + 10, outer.width - tip.offsetWidth));
      tip.style.left = `${left}px`;
      tip.style.top = `${y - tip.offsetHeight - 12 < 0 ? y + 14 : y - tip.offsetHeight - 12}px`;
    };
    const hide = () => {
      current = null;
      tip.hidden = true;
      cursor.setAttribute("hidden", "");
    };
    const seek = (event) => {
      const box = svg.getBoundingClientRect();
      const scale = svg.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * scale;
      const y = (event.clientY - box.top) * scale;
      let best = null;
      let least = Infinity;
      for (const point of visible()) {
        const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
        if (distance < least) [least, best] = [distance, point];
      }
      if (best && least < 60 ** 2) show(best);
      else hide();
    };
    svg.addEventListener("pointermove", seek);
    svg.addEventListener("pointerdown", seek);
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      const all = visible();
      if (!all.length || !["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].includes(event.key)) return;
      event.preventDefault();
      const back = event.key === "ArrowLeft" || event.key === "ArrowUp";
      const at = all.indexOf(current);
      show(all[at < 0 ? 0 : (at + (back ? all.length - 1 : 1)) % all.length]);
    });
  }
}

// Pictures: two of them, one left and one right of a border that moves; or the bits over one.
for (const compare of document.querySelectorAll(".compare")) {
  const stage = compare.querySelector(".stage");
  const panes = [...stage.querySelectorAll(".pane:not(.over)")];
  const selects = [...compare.querySelectorAll("select")];
  const facts = compare.querySelector(".facts");
  const choose = () => {
    facts.replaceChildren();
    for (const select of selects) {
      const side = select.dataset.side;
      panes.forEach((pane, index) => pane.classList.toggle(side, index === +select.value));
      const said = document.createElement("span");
      said.textContent = select.selectedOptions[0].dataset.facts;
      facts.append(said);
    }
  };
  for (const select of selects) select.addEventListener("change", choose);
  choose();
  const at = stage.querySelector(".at");
  const move = () => compare.style.setProperty("--at", `${at.value}%`);
  at.addEventListener("input", move);
  move();

  const zoom = compare.querySelector(".zoom");
  stage.addEventListener("pointerdown", (event) => {
    if (stage.classList.contains("large")) return;
    const box = stage.getBoundingClientRect();
    stage.style.setProperty("--to-x", `${((event.clientX - box.left) / box.width) * 100}%`);
    stage.style.setProperty("--to-y", `${((event.clientY - box.top) / box.height) * 100}%`);
  });
  const enlarge = () => {
    const large = stage.classList.toggle("large");
    zoom.setAttribute("aria-pressed", String(large));
  };
  zoom.addEventListener("click", enlarge);
  stage.addEventListener("dblclick", enlarge);

  const heat = stage.querySelector(".heat");
  if (!heat) continue;
  const toggle = compare.querySelector("[data-heat]");
  const opacity = compare.querySelector(".opacity");
  const reading = compare.querySelector(".reading");
  const fade = () => { heat.style.opacity = opacity.value / 100; };
  toggle.addEventListener("change", () => {
    heat.hidden = !toggle.checked;
    stage.classList.toggle("mapped", toggle.checked);
    reading.textContent = "";
  });
  opacity.addEventListener("input", fade);
  fade();
  const bits = heat.dataset.bits ? heat.dataset.bits.split(" ").map(Number) : [];
  const columns = +heat.dataset.columns;
  const stride = +heat.dataset.stride;
  stage.addEventListener("pointermove", (event) => {
    if (heat.hidden || !bits.length) return;
    const box = heat.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width) * columns);
    const row = Math.floor(((event.clientY - box.top) / box.height) * (bits.length / columns));
    const value = bits[row * columns + column];
    if (column < 0 || column >= columns || value === undefined) return;
    reading.textContent =
      `row ${row}, column ${column}: ${value} bits, ${(value / stride ** 2).toFixed(3)} bits per pixel`;
  });
}
