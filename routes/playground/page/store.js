// The takes that this browser keeps, in IndexedDB.

const STORE = "takes";
/** Takes that are kept; the oldest leave. */
export const LIMIT = 100;

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

let opening = null;

function database() {
  opening ??= (() => {
    const request = indexedDB.open("echo-playground", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id", autoIncrement: true });
    return done(request);
  })();
  return opening;
}

async function store(mode) {
  return (await database()).transaction(STORE, mode).objectStore(STORE);
}

/** All takes, the newest first. */
export const all = async () => (await done((await store("readonly")).getAll())).reverse();

/** Keep a take; returns its id. */
export async function add(take) {
  const takes = await store("readwrite");
  const id = await done(takes.add(take));
  const ids = await done(takes.getAllKeys());
  for (const old of ids.slice(0, Math.max(0, ids.length - LIMIT))) takes.delete(old);
  return id;
}

export const remove = async (id) => done((await store("readwrite")).delete(id));
export const clear = async () => done((await store("readwrite")).clear());
