"use strict";
(async () => {
  const find = (id) => document.getElementById(id);
  const make = (tag, settings = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), settings);
    element.append(...children);
    return element;
  };
  const trouble = find("trouble");
  const tell = (words) => { trouble.textContent = words; trouble.hidden = words === ""; };
  // What the server refuses, it says in words.
  const ask = async (address, settings) => {
    let answer;
    try {
      answer = await fetch(address, settings);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("the server does not answer: has carp explore ended?");
    }
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error);
    return told;
  };
  const percent = (share) => `${(100 * share).toFixed(0)} %`;
  const number = (value) => value.toLocaleString("en");

  let state;
  try {
    state = await ask("/api/state");
  } catch (error) {
    tell(error.message);
    return;
  }
  const several = state.sides.length > 1;
  const letter = (side) => (several ? `${"AB"[side]}: ` : "");
  const addressOf = (image) => `/api/pictures/${image}?of=${state.pictures}`;
  const picture = (image, alt) => {
    if (!state.pictures) return make("span", { className: "thumb none", textContent: "no picture" });
    const shown = make("img", { className: "thumb", alt, src: addressOf(image), loading: "lazy", decoding: "async" });
    // Drawn pixel by pixel where there are few, so that nothing is made up.
    shown.addEventListener("load", () => shown.classList.toggle("few", shown.naturalWidth < 64));
    shown.addEventListener("error", () => shown.replaceWith(make("span", { className: "thumb none", textContent: "no picture" })));
    return shown;
  };

  // What is asked about, and what came of it.
  let asked = null;
  let under = new AbortController();
  const answers = state.sides.map(() => null);
  const maps = state.sides.map(() => null);
  const verdicts = state.sides.map(() => ({ wrong: new Set(), right: new Set() }));
  const sections = state.sides.map((_, side) => find(`side-${side}`));

  const shownQuery = () => {
    find("query").hidden = asked === null;
    find("invitation").hidden = asked !== null;
    if (asked === null) return;
    const told = answers.find((answer) => answer !== null && answer.query !== null)?.query ?? null;
    const image = find("query-picture");
    const address = asked.file ? asked.address : state.pictures ? addressOf(asked.image) : "";
    if (image.getAttribute("src") !== address) image.src = address;
    image.hidden = address === "";
    image.alt = asked.file ? "the dropped image" : told === null ? "" : `${told.class}: ${told.key}`;
    find("query-name").textContent = asked.file ? "dropped image" : told === null ? "" : told.class;
    find("query-key").textContent = asked.file ? asked.file.name : told === null ? "" : told.key;
  };
  find("query-picture").addEventListener("load", (event) => {
    event.target.classList.toggle("few", event.target.naturalWidth < 64);
  });

  const shownAnswer = (side) => {
    const answer = answers[side];
    const section = sections[side];
    const near = section.querySelector(".near");
    const vote = section.querySelector(".vote");
    const prototype = section.querySelector(".prototype");
    near.replaceChildren();
    prototype.replaceChildren();
    vote.replaceChildren();
    vote.className = "vote";
    section.querySelector(".took").textContent = answer === null ? "" : `, ${answer.search.milliseconds.toFixed(1)} ms`;
    maps[side]?.redraw(false);
    if (answer === null) return;
    if (answer.vote !== null) {
      const { share, voters, right } = answer.vote;
      const mark = right === null ? "" : right ? "✓ " : "✗ ";
      if (right !== null) vote.classList.add(right ? "right" : "wrong");
      vote.append(make("strong", {}, mark, make("bdi", { textContent: answer.vote.class })),
        ` by ${percent(share)} of the vote of ${voters} neighbours`);
    }
    answer.neighbours.forEach((each, place) => {
      const words = each.same === null ? "" : each.same ? ", of the same class" : ", of another class";
      const alt = `neighbour ${place + 1}: ${each.class}${words}, similarity ${each.similarity.toFixed(3)}: ${each.key}`;
      const bar = make("span", { className: "bar" }, make("span"));
      bar.firstChild.style.width = `${Math.max(0, Math.min(1, each.similarity)) * 100}%`;
      const mark = each.same === null ? "" : each.same ? "✓ " : "✗ ";
      const button = make("button", { type: "button", className: `pic ${each.same === null ? "" : each.same ? "right" : "wrong"}`, title: alt },
        picture(each.image, alt), bar,
        make("span", { className: "caption" }, make("span", { className: "name" }, mark, make("bdi", { textContent: each.class })),
          make("span", { className: "value", textContent: each.similarity.toFixed(3) })));
      button.addEventListener("click", () => pick({ image: each.image }));
      near.append(make("li", {}, button));
    });
    if (answer.prototype !== null) shownPrototype(prototype, answer.prototype);
  };
  const shownPrototype = (place, told) => {
    if (told.missing !== undefined) {
      place.append(make("p", { className: "word", textContent: `no prototype: ${told.missing}` }));
      return;
    }
    const words = told.banked ? told.images.length ? "; surest:" : "; no image of this split has it" : "";
    place.append(make("p", {}, "nearest prototype ", make("strong", { textContent: number(told.number) }),
      ` of ${number(told.count)}, confidence ${told.confidence.toFixed(3)}${words}`));
    const strip = make("div", { className: "strip" });
    for (const image of told.images) {
      const button = make("button", { type: "button", className: "pic tiny" }, picture(image, `image ${image} of prototype ${told.number}`));
      button.addEventListener("click", () => pick({ image }));
      strip.append(button);
    }
    place.append(strip);
  };

  // What was answered before the map was drawn has its place on it now.
  const placed = async (side) => {
    const answer = answers[side];
    if (answer === null || answer.placing === null || maps[side] === null) return;
    const ticket = answer.placing;
    answer.placing = null;
    try {
      answer.place = await ask(`/api/sides/${side}/places/${ticket}`);
    } catch {
      return;
    }
    if (answers[side] === answer) maps[side].redraw(false);
  };

  const pick = async (wanted) => {
    under.abort();
    under = new AbortController();
    const { signal } = under;
    if (asked?.address) URL.revokeObjectURL(asked.address);
    asked = wanted.file ? { ...wanted, address: URL.createObjectURL(wanted.file) } : wanted;
    history.replaceState(null, "", asked.file ? location.pathname : `#image=${asked.image}`);
    answers.fill(null);
    tell("");
    for (const button of find("gallery").children) button.setAttribute("aria-pressed", String(Number(button.dataset.image) === asked.image));
    find("main").setAttribute("aria-busy", "true");
    const refused = [];
    const of = async (side) => {
      const k = `k=${find("k").value}`;
      try {
        const told = asked.file
          ? await ask(`/api/sides/${side}/picture?${k}`, { method: "POST", body: asked.file, signal, headers: { "Content-Type": "application/octet-stream" } })
          : await ask(`/api/sides/${side}/images/${asked.image}?${k}`, { signal });
        if (signal.aborted) return;
        answers[side] = told;
        placed(side);
      } catch (error) {
        if (signal.aborted) return;
        refused.push(letter(side) + error.message);
      }
      shownQuery();
      shownAnswer(side);
    };
    await Promise.all(state.sides.map((told, side) => (asked.file && told.closed ? undefined : of(side))));
    if (signal.aborted) return;
    find("main").removeAttribute("aria-busy");
    state.sides.forEach((_, side) => { if (answers[side] === null) shownAnswer(side); });
    shownQuery();
    tell([...new Set(refused)].join("; "));
  };

  // The images to pick from.
  const form = find("filters");
  const gallery = find("gallery");
  const wish = () => {
    const { elements } = form;
    const name = elements.class?.value ?? "";
    const [only, side] = (elements.only?.value ?? "all:0").split(":");
    return { label: name === "" ? -1 : state.classes.indexOf(name), unknown: name !== "" && !state.classes.includes(name), only, side: Number(side), words: elements.words.value };
  };
  let wished = wish();
  let turn = 0;
  let complete = false;
  const listed = (start, count) => {
    const query = new URLSearchParams({ only: wished.only, side: wished.side, words: wished.words, start, count });
    if (wished.label >= 0) query.set("label", wished.label);
    return ask(`/api/images?${query}`);
  };
  const load = async (start) => {
    turn += 1;
    const mine = turn;
    // Half a name is being typed.
    if (wished.unknown) return;
    let told;
    try {
      told = await listed(start, 60);
    } catch (error) {
      tell(error.message);
      return;
    }
    if (mine !== turn) return;
    const made = told.images.map((each) => {
      const wrong = each.taken.map((name) => name !== null && name !== each.class);
      const taken = each.taken.map((name, side) => (wrong[side] ? `; ${letter(side)}its neighbours vote for ${name}` : "")).join("");
      const alt = `${each.class}: ${each.key}${taken}`;
      const button = make("button", { type: "button", className: `pic ${wrong.some(Boolean) ? "wrong" : ""}`, title: alt }, picture(each.image, alt));
      if (!state.pictures) button.append(make("span", { className: "caption" }, make("bdi", { textContent: each.key })));
      button.dataset.image = each.image;
      button.setAttribute("aria-label", alt);
      button.setAttribute("aria-pressed", String(asked?.image === each.image));
      button.addEventListener("click", () => pick({ image: each.image }));
      return button;
    });
    if (start === 0) gallery.replaceChildren(...made); else gallery.append(...made);
    find("more").hidden = gallery.children.length >= told.total;
    shownCount(told);
  };
  const shownCount = (told) => {
    complete = told.judged.every(({ done, of, stopped }) => done === of || stopped !== "");
    const judged = told.judged.map(({ done, of, wrong, stopped }, side) => {
      if (of === 0) return "";
      if (stopped !== "") return `; ${letter(side)}votes cannot be counted: ${stopped}`;
      return done < of ? `; ${letter(side)}votes counted for ${number(done)} of ${number(of)}`
        : `; ${letter(side)}${number(wrong)} of ${number(of)} taken for another class`;
    });
    find("count").textContent = `${number(told.total)} images${judged.join("")}`;
  };
  const visible = (side) => (point) => {
    const { label, image } = maps[side].data;
    if (wished.label >= 0 && label[point] !== wished.label) return false;
    if (wished.only === "all") return true;
    const seen = image[point];
    if (wished.only !== "differ") return verdicts[wished.side][wished.only].has(seen);
    return verdicts.every((verdict) => verdict.wrong.has(seen) || verdict.right.has(seen))
      && new Set(verdicts.map((verdict) => verdict.wrong.has(seen))).size > 1;
  };
  const verdict = async () => {
    await Promise.all(state.sides.map(async (_, side) => {
      const told = await ask(`/api/sides/${side}/votes`);
      verdicts[side] = { wrong: new Set(told.wrong), right: new Set(told.right) };
    }));
  };
  let pause = 0;
  form.addEventListener("input", () => {
    wished = wish();
    clearTimeout(pause);
    pause = setTimeout(async () => {
      await load(0);
      if (wished.only !== "all") await verdict().catch((error) => tell(error.message));
      for (const map of maps) map?.redraw(true);
    }, 120);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  find("more").addEventListener("click", () => load(gallery.children.length));
  find("k").addEventListener("change", () => { if (asked !== null) pick(asked.file ? { file: asked.file } : asked); });

  // Files, dropped anywhere on the page or chosen.
  const file = find("file");
  const take = (files) => {
    if (files.length === 0) return;
    const [first] = files;
    if (file === null) { tell("only images of the bank can be looked up"); return; }
    if (first.size > Number(file.dataset.most)) {
      tell(`${first.name} has ${number(first.size)} bytes; at most ${number(Number(file.dataset.most))} are taken: make it smaller`);
      return;
    }
    pick({ file: first });
  };
  file?.addEventListener("change", () => { take(file.files); file.value = ""; });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    find("drop").classList.add("over");
  });
  document.addEventListener("dragleave", (event) => { if (event.relatedTarget === null) find("drop").classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    find("drop").classList.remove("over");
    take(event.dataTransfer.files);
  });

  // One model or both.
  find("view")?.addEventListener("change", (event) => {
    const { value } = event.target;
    sections.forEach((section, side) => { section.hidden = value !== "both" && value !== String(side); });
    find("sides").classList.toggle("two", value === "both");
    for (const map of maps) map?.redraw(true);
  });

  // The maps.
  const drawn = async (side) => {
    const figure = sections[side].querySelector(".map");
    const words = figure.querySelector("figcaption");
    let data;
    try {
      data = await ask(`/api/sides/${side}/map`);
    } catch (error) {
      words.textContent = `no map: ${error.message}`;
      return;
    }
    figure.removeAttribute("aria-busy");
    const card = figure.querySelector(".card");
    const places = new Map(data.image.map((image, point) => [image, point]));
    const told = (point) => {
      card.hidden = point < 0;
      if (point < 0) return;
      const name = data.label[point] < 0 ? "no class" : state.classes[data.label[point]];
      const shown = card.querySelector("img");
      shown.hidden = !state.pictures;
      if (state.pictures) shown.src = addressOf(data.image[point]);
      card.querySelector("p").textContent = `${name}: ${data.key[point]}`;
    };
    card.querySelector("img").addEventListener("load", (event) => event.target.classList.toggle("few", event.target.naturalWidth < 64));
    const marks = () => {
      const answer = answers[side];
      if (answer === null) return [];
      const near = answer.neighbours.map((each) => places.get(each.image)).filter((point) => point !== undefined)
        .map((point) => ({ x: data.x[point], y: data.y[point], first: false }));
      return answer.place === null ? near : [...near, { ...answer.place, first: true }];
    };
    maps[side] = { data, redraw: () => {} };
    const map = pointMap(figure.querySelector(".stage > canvas"), data, state.shapes,
      { visible: visible(side), told, picked: (point) => pick({ image: data.image[point] }), marks });
    maps[side].redraw = (all) => {
      const how = answers[side]?.place?.how;
      words.textContent = `${data.how}. The cross is the image${how ? `, ${how}` : ""}; circles are its neighbours. Click a point to pick it.`;
      map.redraw(all);
    };
    maps[side].redraw(true);
    await placed(side);
  };

  const wanted = /^#image=(\d+)$/.exec(location.hash);
  await load(0);
  const first = wanted !== null ? Number(wanted[1]) : Number(gallery.firstElementChild?.dataset.image ?? -1);
  if (first >= 0) await pick({ image: first });
  for (const side of state.sides.keys()) drawn(side);
  // Until all votes are counted.
  const watch = async () => {
    if (complete) return;
    try {
      // Neither what "more" has brought is taken away, nor what the keyboard or the pointer is on.
      if (gallery.children.length <= 60 && !gallery.matches(":focus-within, :hover")) await load(0);
      else if (!wished.unknown) shownCount(await listed(0, 1));
      if (wished.only !== "all") { await verdict(); for (const map of maps) map?.redraw(true); }
      setTimeout(watch, 1500);
    } catch (error) {
      tell(error.message);
    }
  };
  setTimeout(watch, 700);
})();
