// The page's elements, and how numbers are written.

export const $ = (id) => document.getElementById(id);
export const config = JSON.parse(document.querySelector("meta[name=playground]").content);
export const nonce = document.querySelector("meta[name=style-nonce]").content;

export const seconds = (value, digits = 2) => (value == null ? "–" : `${value.toFixed(digits)} s`);

/** Show a message in an element, or hide the element where there is none. */
export function say(element, message) {
  element.textContent = message ?? "";
  element.hidden = !message;
}

/** Give an element an attribute, or take it away where there is no value. */
export const mark = (element, name, value) => (value ? element.setAttribute(name, value) : element.removeAttribute(name));

/** An element with properties and children. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Have the browser save a blob as a file. */
export function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
