"use strict";
// Hosts beyond the first page, and the search. Everything is put in as text.
(() => {
  const table = document.getElementById("hosts-table");
  const bar = document.getElementById("pager");
  if (!table || !bar) return;
  const chunks = [...document.querySelectorAll("script[data-hosts]")];
  const first = [...table.tBodies];
  const total = Number(table.dataset.total);
  const size = Number(table.dataset.size);
  const say = document.getElementById("pager-says");
  const find = document.getElementById("pager-find");
  const [back, next] = bar.querySelectorAll("button");
  // A chunk is gzip in base64.
  const read = async script => {
    const bytes = Uint8Array.from(atob(script.textContent), c => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  };
  const show = n => n.toLocaleString("en");
  let page = 0, found = null, over = false, turns = 0;

  const el = (name, cls, text) => {
    const e = document.createElement(name);
    if (cls) e.className = cls;
    if (text !== undefined) e.textContent = text;
    return e;
  };
  const cell = (text, sub) => {
    const td = el("td", "", text);
    if (sub) td.append(el("span", "sub", sub));
    return td;
  };
  const host = (h, t) => {
    const s = i => t[i];
    const body = el("tbody");
    const main = body.appendChild(el("tr", "main"));
    main.append(el("td", "sev " + s(h[0]), s(h[0])));
    const th = main.appendChild(el("th"));
    th.scope = "row";
    th.append(el("code", "", s(h[1])));
    if (s(h[2])) th.append(el("span", "sub", s(h[2])));
    main.append(cell(s(h[3])), cell(s(h[4])), cell(s(h[5]), s(h[6])),
      cell(s(h[7]), s(h[8])), cell(s(h[9]), s(h[10])));
    const td = body.appendChild(el("tr", "more")).appendChild(el("td"));
    td.colSpan = 7;
    if (h[12].length + h[13].length) {
      const d = td.appendChild(el("details"));
      d.append(el("summary", "", s(h[11])));
      for (const f of h[12]) {
        const box = d.appendChild(el("div", "f"));
        box.append(el("h4", "", s(f[0])), el("p", "meta", s(f[1])));
        const ul = box.appendChild(el("ul"));
        for (const line of f[2]) ul.appendChild(el("li")).append(el("code", "", s(line)));
        if (s(f[3])) box.append(el("p", "", s(f[3])));
      }
      if (h[13].length) {
        const box = d.appendChild(el("div", "f"));
        box.append(el("h4", "", "What else it showed"));
        const ul = box.appendChild(el("ul"));
        for (const line of h[13]) ul.append(el("li", "", s(line)));
      }
    }
    return body;
  };
  const draw = bodies => {
    for (const b of [...table.tBodies]) b.remove();
    table.append(...bodies);
  };
  const turn = async to => {
    const mine = ++turns; // a later one is what counts
    const pages = found ? Math.max(1, Math.ceil(found.length / size)) : chunks.length + 1;
    page = Math.min(Math.max(to, 0), pages - 1);
    const from = page * size;
    if (found) {
      draw(found.slice(from, from + size).map(make => make()));
    } else if (page === 0) {
      draw(first);
    } else {
      const c = await read(chunks[page - 1]);
      if (mine !== turns) return;
      draw(c.h.map(h => host(h, c.t)));
    }
    const n = found ? found.length : total;
    say.textContent = n ? show(from + 1) + "–" + show(Math.min(from + size, n)) + " of " + (found && over ? "more than " : "") + show(n) : "nothing found";
    back.hidden = next.hidden = pages === 1;
    back.disabled = page === 0;
    next.disabled = page === pages - 1;
  };
  const search = async words => {
    const mine = ++turns;
    let hits = null, more = false;
    words = words.trim().toLowerCase();
    if (words) {
      hits = [];
      say.textContent = "looking …";
      for (const b of first) if (b.textContent.toLowerCase().includes(words)) hits.push(() => b);
      for (const script of chunks) {
        if (more = hits.length >= 10 * size) break;
        const c = await read(script);
        if (mine !== turns) return;
        const hit = new Set();
        c.t.forEach((text, i) => { if (text.toLowerCase().includes(words)) hit.add(i); });
        if (!hit.size) continue;
        for (const h of c.h) if (h.flat(3).some(i => hit.has(i))) hits.push(() => host(h, c.t));
      }
    }
    found = hits;
    over = more;
    return turn(0);
  };
  back.addEventListener("click", () => turn(page - 1));
  next.addEventListener("click", () => turn(page + 1));
  let wait;
  find.addEventListener("input", () => {
    clearTimeout(wait);
    wait = setTimeout(() => search(find.value), 250);
  });
  bar.hidden = false;
  turn(0);
})();
