// Keeps every file of the folder, so that the page works without a network; a damaged one is not kept.
"use strict";

const FILES = "@FILES@"; // sha256 of files.json, written by ifmmin-bundle web
const KEPT = `ifmmin-${FILES}`;

async function sha256(content) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function fetched(name, wanted) {
  const answer = await fetch(name, {cache: "no-cache"});
  if (!answer.ok || (await sha256(await answer.clone().arrayBuffer())) !== wanted)
    throw new Error(`${name} is absent or damaged`);
  return answer;
}

async function keep() {
  const list = await fetched("files.json", FILES),
    listed = await list.clone().json();
  const cache = await caches.open(KEPT);
  await cache.put("files.json", list);
  for (const [name, wanted] of Object.entries(listed)) {
    const answer = await fetched(name, wanted);
    if (name === "index.html") await cache.put("./", answer.clone());
    await cache.put(name, answer);
  }
}

async function forget() {
  for (const name of await caches.keys())
    if (name.startsWith("ifmmin-") && name !== KEPT) await caches.delete(name);
  await self.clients.claim();
}

async function answer(request) {
  const cache = await caches.open(KEPT);
  return (await cache.match(request, {ignoreSearch: true})) ?? fetch(request);
}

self.addEventListener("install", (event) => event.waitUntil(keep()));
self.addEventListener("activate", (event) => event.waitUntil(forget()));
self.addEventListener("fetch", (event) => {
  if (event.request.method === "GET") event.respondWith(answer(event.request));
});
