"use strict";

/* The map: the nearest point to a pointer or the arrow keys, its picture or row, and the labels. */
for (const map of document.querySelectorAll(".map")) {
  const data = JSON.parse(map.querySelector("script").textContent);
  const stage = map.querySelector(".stage"), ring = map.querySelector(".ring");
  const tip = map.querySelector(".tip"), status = map.querySelector("[role=status]");
  const sprite = data.sprite && Object.assign(new Image(), { src: data.sprite.source });
  let at = -1, chosen = -1;

  const make = (name, text) => Object.assign(document.createElement(name), { textContent: text ?? "" });
  const shown = i => chosen < 0 || data.groups[i] === chosen;

  function picture(i) {
    const { columns, width, height } = data.sprite, canvas = make("canvas");
    const scale = Math.max(1, Math.round(84 / width));
    canvas.width = width * scale;
    canvas.height = height * scale;
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = false;
    const x = (i % columns) * width, y = Math.floor(i / columns) * height;
    pen.drawImage(sprite, x, y, width, height, 0, 0, canvas.width, canvas.height);
    return canvas;
  }

  function words(i) {
    const box = make("div"), row = data.noun + " " + data.rows[i].toLocaleString("en").replaceAll(",", "\u202f");
    if (data.labels.length) box.append(make("b", data.labels[i]));
    box.append(make("span", row));
    if (data.facts.length) {
      const list = make("dl");
      data.columns.forEach((name, k) => list.append(make("dt", name), make("dd", data.facts[i][k])));
      box.append(list);
    }
    return box;
  }

  function show(i) {
    if (i < 0 || i === at) return;
    at = i;
    const [x, y] = data.points[i];
    const left = x / data.width * stage.clientWidth, top = y / data.height * stage.clientHeight;
    ring.style.left = left + "px";
    ring.style.top = top + "px";
    ring.hidden = tip.hidden = false;
    tip.replaceChildren(...(sprite ? [picture(i)] : []), words(i));
    const room = stage.clientWidth - tip.offsetWidth - 6, under = stage.clientHeight - tip.offsetHeight - 6;
    const wanted = left + 18 > room ? left - tip.offsetWidth - 18 : left + 18;
    tip.style.left = Math.max(6, Math.min(room, wanted)) + "px";
    tip.style.top = Math.max(6, Math.min(under, top - tip.offsetHeight / 2)) + "px";
    status.textContent = tip.innerText;
  }

  function hide() {
    at = -1;
    ring.hidden = tip.hidden = true;
  }

  function nearest(x, y, reach, passes) {
    let best = -1, least = reach * reach;
    data.points.forEach(([a, b], i) => {
      const far = (a - x) ** 2 + (b - y) ** 2;
      if (far < least && shown(i) && passes(a - x, b - y, i)) { least = far; best = i; }
    });
    return best;
  }

  function point(event) {
    const box = stage.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * data.width;
    const y = (event.clientY - box.top) / box.height * data.height;
    const i = nearest(x, y, 40, () => true);
    if (i < 0) hide(); else show(i);
  }

  stage.addEventListener("pointermove", point);
  stage.addEventListener("pointerdown", point);
  stage.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") hide(); });
  stage.addEventListener("blur", hide);
  stage.addEventListener("keydown", event => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Escape") hide();
    if (!way) return;
    event.preventDefault();
    const [x, y] = at < 0 ? [data.width / 2, data.height / 2] : data.points[at];
    const ahead = (a, b, i) => {
      const along = a * way[0] + b * way[1], aside = Math.abs(a * way[1]) + Math.abs(b * way[0]);
      return at < 0 || (i !== at && along > 0 && along >= aside);
    };
    show(nearest(x, y, Infinity, ahead));
  });

  const keys = [...map.querySelectorAll(".keys button")];
  for (const key of keys) {
    key.addEventListener("click", () => {
      const group = Number(key.dataset.group);
      chosen = chosen === group ? -1 : group;
      hide();
      map.classList.toggle("chosen", chosen >= 0);
      for (const each of keys) each.setAttribute("aria-pressed", String(Number(each.dataset.group) === chosen));
      for (const drawn of map.querySelectorAll("[data-group]")) drawn.classList.toggle("on", Number(drawn.dataset.group) === chosen);
    });
  }
}

/* The command: copied on request, where the browser can. */
for (const button of document.querySelectorAll(".copy")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}
