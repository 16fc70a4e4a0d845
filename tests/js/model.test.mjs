import assert from "node:assert/strict";
import { test } from "node:test";
import { Model } from "../../book/_static/live/model.js";
import { Session } from "../../book/_static/live/session.js";

/** Stands in for wllama: four tokens, and a list of what it was asked. */
class Fake {
  constructor() {
    this.asked = [];
    this.decode = async (tokens) => this.asked.push(["decode", ...tokens]);
  }
  async kvClear() {
    this.asked.push(["clear"]);
  }
  async kvRemove(from) {
    this.asked.push(["remove", from]);
  }
  async getLogits() {
    return [2, 1, 0, 3].map((token, i) => ({ token, p: [0.4, 0.3, 0.2, 0.1][i] }));
  }
  getEOS() {
    return 3;
  }
  take() {
    return this.asked.splice(0);
  }
}

test("only what is new is read", async () => {
  const fake = new Fake();
  const model = new Model(fake);
  await model.next([1, 2]);
  assert.deepEqual(fake.take(), [["clear"], ["decode", 1, 2]]);
  await model.next([1, 2, 0]);
  assert.deepEqual(fake.take(), [["decode", 0]]);
  await model.next([1, 0]);
  assert.deepEqual(fake.take(), [["remove", 1], ["decode", 0]]);
  await model.next([1, 0]);
  assert.deepEqual(fake.take(), [["remove", 1], ["decode", 0]], "the last token is read again: its results are needed");
});

test("after a failure everything is read again", async () => {
  const fake = new Fake();
  const model = new Model(fake);
  await model.next([1, 2]);
  const { decode } = fake;
  fake.decode = () => Promise.reject(new Error("stopped"));
  await assert.rejects(model.next([1, 2, 0]), /stopped/);
  fake.decode = decode;
  fake.take();
  await model.next([1, 2, 0]);
  assert.deepEqual(fake.take(), [["clear"], ["decode", 1, 2, 0]]);
});

test("a model that is closed answers at once, before and after", async () => {
  const fake = new Fake();
  const model = new Model(fake);
  fake.decode = () => new Promise(() => {});
  const waiting = model.next([1]);
  model.close("gone");
  await assert.rejects(waiting, /gone/);
  await assert.rejects(model.next([1]), /gone/);
});

test("a step that fails waits for all models, and writes nothing", async () => {
  const fakes = { base: new Fake(), tuned: new Fake(), reader: new Fake() };
  const models = Object.fromEntries(Object.entries(fakes).map(([name, fake]) => [name, new Model(fake)]));
  let finish;
  fakes.reader.decode = () => new Promise((resolve) => (finish = resolve));
  fakes.tuned.decode = () => Promise.reject(new Error("broken"));
  const session = new Session(models, [0], { sample: false, temperature: 1, penalty: 1, seed: 0 });
  let failed;
  const step = session.step(new AbortController().signal).catch((error) => (failed = error));
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(failed, undefined, "the reader still reads");
  finish();
  await step;
  assert.match(failed.message, /broken/);
  assert.equal(session.length, 0);
});
