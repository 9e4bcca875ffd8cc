// The options of the chosen engine: those of Echo's sampler, or its own, as /v1/models lists them.

import { $, config, make } from "./page.js";

export class Options {
  #fields = [];

  /** Show the fields of a model, by its capabilities. */
  show(capabilities = {}) {
    const own = Object.entries(capabilities.options ?? {}).map(([name, option]) => ({ name, ...option }));
    const wanted = [...own, ...(capabilities.engine_options ? config.options : [])];
    if (JSON.stringify(wanted) === JSON.stringify(this.#fields)) return;
    this.#fields = wanted;
    $("no-options").hidden = wanted.length > 0;
    $("option-fields").replaceChildren(...wanted.map(field));
  }

  /** What has been filled in, by name. */
  values() {
    const found = {};
    for (const { name, type } of this.#fields) {
      const { value } = $(`option-${name}`);
      if (value === "") continue;
      found[name] = type === "string" ? value : type === "boolean" ? value === "true" : Number(value);
    }
    return found;
  }
}

function field({ name, type, description, minimum, maximum, above, default: preset }) {
  const id = `option-${name}`;
  const row = make("p", {}, make("label", { htmlFor: id, textContent: name }));
  if (type === "boolean") {
    const values = [["", "preset's"], ["true", "on"], ["false", "off"]];
    row.append(make("select", { id }, ...values.map(([value, textContent]) => make("option", { value, textContent }))));
  } else {
    const input = make("input", { id, type: type === "string" ? "text" : "number", placeholder: String(preset ?? "preset's") });
    if (type !== "string") {
      input.step = type === "integer" ? "1" : "any";
      input.min = minimum ?? above ?? "";
      input.max = maximum ?? "";
    }
    row.append(input);
  }
  if (description) {
    row.append(make("span", { id: `${id}-hint`, className: "hint", textContent: description }));
    row.querySelector("input, select").setAttribute("aria-describedby", `${id}-hint`);
  }
  return row;
}
