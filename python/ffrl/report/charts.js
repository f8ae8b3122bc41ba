"use strict";

// A pointer on a chart: a line at the nearest point, and the value of every run there.
{
  const written = (value) => {
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e7) return value.toLocaleString("en");
    return size >= 1e-4 && size < 1e7 ? Number(value.toPrecision(5)).toString() : value.toExponential(3);
  };

  const nearest = (points, x) => {
    let best = points[0];
    for (const point of points) if (Math.abs(point[2] - x) < Math.abs(best[2] - x)) best = point;
    return best;
  };

  const add = (parent, tag, text, className) => {
    const child = parent.appendChild(document.createElement(tag));
    if (text !== null) child.textContent = text;
    if (className) child.className = className;
    return child;
  };

  // Any drawing of the page tells the namespace of all.
  const drawn = document.querySelector("svg");
  const draw = (parent, tag, attributes) => {
    const child = parent.appendChild(document.createElementNS(drawn.namespaceURI, tag));
    for (const [name, value] of Object.entries(attributes)) child.setAttribute(name, value);
    return child;
  };

  for (const plot of document.querySelectorAll(".plot")) {
    const drawing = plot.querySelector("svg");
    const pointer = drawing.querySelector(".pointer");
    const lines = JSON.parse(plot.querySelector("script").textContent).filter((line) => line.points.length);
    const tip = add(plot, "div", null, "tip");
    tip.hidden = true;

    const hide = () => {
      pointer.replaceChildren();
      tip.hidden = true;
    };

    const show = (event) => {
      const box = drawing.getBoundingClientRect();
      const scale = drawing.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * scale;
      // The run with a point nearest to the pointer gives the place; the others are read there.
      const found = lines.map((line) => nearest(line.points, x));
      const place = nearest(found, x);
      pointer.replaceChildren();
      tip.replaceChildren();
      draw(pointer, "path", { d: `M${place[2]} 10V${drawing.viewBox.baseVal.height - 38}`, class: "rule" });
      add(tip, "div", `${plot.dataset.x} ${written(place[0])}`, "place");
      lines.forEach((line) => {
        const point = nearest(line.points, place[2]);
        const [first, last] = [line.points[0][2], line.points[line.points.length - 1][2]];
        // A run that ends before, or begins after, has no value here.
        if (place[2] < first - 4 || place[2] > last + 4) return;
        draw(pointer, "circle", { cx: point[2], cy: point[3], r: 3.2, class: line.line });
        const row = add(tip, "div", null, "value");
        const sign = draw(row, "svg", { viewBox: "0 0 24 12", class: "swatch" });
        draw(sign, "path", { d: "M1 6H23", class: line.line });
        add(row, "span", line.name, "run");
        add(row, "b", written(point[1]), null);
      });
      tip.hidden = false;
      const left = place[2] / scale;
      const right = left > box.width / 2;
      tip.classList.toggle("leftward", right);
      tip.style.left = `${left + (right ? -10 : 10)}px`;
    };

    plot.addEventListener("pointermove", show);
    plot.addEventListener("pointerdown", show);
    plot.addEventListener("pointerleave", hide);
  }
}
