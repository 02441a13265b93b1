/**
 * The server's HTTP interface. What fails for a while (server away, busy, a replica lost) is repeated until it works or
 * nobody wants it any more, and `note` says so meanwhile; what the server refuses is thrown as `Refused`.
 */

const AWAY = [500, 502, 503, 504];
const [LONGEST_WAIT, SLOW] = [5000, 3000]; // milliseconds

export class Refused extends Error {
  /** @param {number} status @param {Record<string, any>} body */
  constructor(status, body) {
    super(typeof body.error === "string" ? body.error : `The server answered ${status}.`);
    this.status = status;
    this.body = body;
  }
}

export class Wire {
  /** @param {(text: string) => void} note says why something is repeated; "" when it worked */
  constructor(note) {
    this.note = note;
    const given = new URLSearchParams(location.hash.slice(1)).get("token");
    if (given) {
      sessionStorage.setItem("token", given);
      history.replaceState(null, "", location.pathname); // a token is not for bookmarks and screenshots
    }
    this.token = sessionStorage.getItem("token");
  }

  /** @returns {Promise<Settings>} */
  settings = () => this.#json("GET", "api/settings");

  /** @param {number} start @param {number} count @param {string} client
   * @returns {Promise<{total: number, images: Listed[]}>} */
  images = (start, count, client) => this.#json("GET", `api/images?start=${start}&count=${count}&client=${client}`);

  /** An image of the folder. @param {string} name @returns {Promise<Picture>} */
  async picture(name) {
    const answer = await this.#send("GET", `api/images/${path(name)}`);
    return { name, title: name, image: answer.headers.get("X-Image") ?? "", blob: await answer.blob(), folder: true };
  }

  /** An image as PNG, where the browser cannot show its file. @param {Picture} one @returns {Promise<Blob>} */
  shown = (one) => this.#known(one, () => this.#blob(`api/shown/${one.image}?name=${path(one.name)}`));

  /** @param {string} name */
  thumbnail = (name) => this.#blob(`api/thumbnails/${path(name)}`);

  /** @param {Blob} blob @param {AbortSignal} [signal] @returns {Promise<{image: string, name: string}>} */
  upload = (blob, signal) => this.#json("PUT", "api/uploads", { body: blob, type: "application/octet-stream", signal });

  /** @param {Picture} picture @param {Asked} asked @param {AbortSignal} signal @returns {Promise<Mask>} */
  mask(picture, { clicks, steps, adaptive }, signal) {
    const body = { image: picture.image, clicks, steps, adaptive, ...(picture.folder && { name: picture.name }) };
    return this.#known(picture, () => this.#json("POST", "api/masks", { ...json(body), signal }), signal);
  }

  /** @param {string} name @returns {Promise<{objects: Stored[]}>} */
  results = (name) => this.#json("GET", `api/results/${path(name)}`);

  /** @param {Picture} picture @param {Named} object @param {Version} version last seen
   * @returns {Promise<{version: Version}>} */
  save(picture, { id, label, clicks, steps, adaptive }, version) {
    const body = json({ image: picture.image, label, clicks, steps, adaptive, version });
    return this.#known(picture, () => this.#json("PUT", `api/results/${path(picture.name)}/${id}`, body));
  }

  /** @param {string} name @param {string} id @param {Version} version last seen */
  remove = (name, id, version) =>
    this.#json("DELETE", `api/results/${path(name)}/${id}?version=${encodeURIComponent(version ?? "")}`, json({}));

  /** @param {string} name @param {boolean} done */
  done = (name, done) => this.#json("POST", `api/results/${path(name)}/done`, json({ done }));

  /** @param {string} name @param {string} client @param {string} who @returns {Promise<{holder: string | null}>} */
  hold = (name, client, who) => this.#json("POST", `api/holds/${path(name)}`, json({ client, who }));

  /** A server that does not know the image (started again, another replica) gets its bytes, and is asked once more.
   * @template T @param {Picture} picture @param {() => Promise<T>} ask @param {AbortSignal} [signal]
   * @returns {Promise<T>} */
  async #known(picture, ask, signal) {
    for (let uploads = 0; ; uploads++) {
      try {
        return await ask();
      } catch (error) {
        if (!(error instanceof Refused) || error.body.upload !== true || uploads === 5) throw error;
        await this.upload(picture.blob, signal);
      }
    }
  }

  /** @param {string} address */
  #blob = async (address) => (await this.#send("GET", address)).blob();

  /** @param {string} method @param {string} address @param {Options} [options] */
  #json = async (method, address, options) => (await this.#send(method, address, options)).json();

  /** @param {string} method @param {string} address @param {Options} [options] */
  async #send(method, address, { body, type, signal } = {}) {
    const headers = new Headers(type ? { "Content-Type": type } : {});
    if (this.token) headers.set("Authorization", `Bearer ${this.token}`);
    for (let tries = 0; ; tries++) {
      const slow = setTimeout(() => this.note("Waiting for the server …"), SLOW);
      const answer = await fetch(address, { method, headers, body, signal })
        .catch((error) => {
          if (!(error instanceof TypeError)) throw error; // a TypeError is a connection that failed
        })
        .finally(() => clearTimeout(slow));
      // A replica that is lost in the middle of a request makes one 500; a server that always says so has a fault.
      const status = answer?.status ?? 503;
      const passing = status === 429 || (AWAY.includes(status) && !(status === 500 && tries > 5));
      if (answer && !passing) {
        this.note("");
        if (answer.ok) return answer;
        throw new Refused(status, await answer.json().catch(() => ({})));
      }
      this.note(status === 429 ? "The server is busy; asking again …" : "The server is away; trying again …");
      const wait = Number(answer?.headers.get("Retry-After")) * 1000 || Math.min(LONGEST_WAIT, 300 * 2 ** tries);
      await pause(wait, signal).finally(() => signal?.aborted && this.note(""));
    }
  }
}

const path = (/** @type {string} */ name) => name.split("/").map(encodeURIComponent).join("/");
const json = (/** @type {unknown} */ value) => ({ body: JSON.stringify(value), type: "application/json" });

/** @param {number} milliseconds @param {AbortSignal} [signal] @returns {Promise<void>} */
const pause = (milliseconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
