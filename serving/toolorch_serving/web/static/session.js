// What the page keeps: the API key and the caller's choices for this tab, the appearance for this browser.

const KEY = "toolorch.key";
const OPTIONS = "toolorch.options";
const SCHEME = "toolorch.scheme";

const keyChanges = new EventTarget();

/** The API key; it is kept in sessionStorage, so closing the tab forgets it. */
export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set(key) {
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
    keyChanges.dispatchEvent(new Event("change"));
  },
  /** For what is drawn once and kept: it was drawn with what the key before could see. */
  onChange: (listener) => keyChanges.addEventListener("change", listener),
};

/** Preferences, budget and tools that the next question is asked with. */
export const options = {
  get() {
    try {
      return JSON.parse(sessionStorage.getItem(OPTIONS)) ?? {};
    } catch {
      return {};
    }
  },
  set: (value) => sessionStorage.setItem(OPTIONS, JSON.stringify(value)),
};

export const SCHEMES = { "": "As the system", light: "Light", dark: "Dark" };

/** Light or dark, or as the system. */
export const scheme = {
  get: () => localStorage.getItem(SCHEME) ?? "",
  set(value) {
    if (value) localStorage.setItem(SCHEME, value);
    else localStorage.removeItem(SCHEME);
    scheme.apply();
  },
  apply() {
    const value = scheme.get();
    if (value in SCHEMES && value) document.documentElement.dataset.scheme = value;
    else delete document.documentElement.dataset.scheme;
  },
};
