// What a person does on the chat page and sees there.

import { same } from './browser.mjs'
import { Model } from './model.mjs'
import { Perch } from './perch.mjs'

/** The browser's own line about a request that was made to fail. */
export const REFUSED = /\/api\//

/** perch with a model, for one file of stories. */
export async function stage(binary, lines) {
  const model = await Model.start()
  const perch = await Perch.start(binary, model, lines)
  return { address: perch.address, model, perch, begin: () => model.reset(), log: () => perch.log(), end: () => (perch.end(), model.end()) }
}

export class Chat {
  constructor(person) {
    this.person = person
  }

  static async open(person, options) {
    await person.arrive(options)
    return new Chat(person)
  }

  get page() {
    return this.person.page
  }

  get field() {
    return this.page.locator('#message')
  }

  get log() {
    return this.page.getByRole('log')
  }

  get questions() {
    return this.log.locator('.you')
  }

  get answers() {
    return this.log.locator('.perch')
  }

  get list() {
    return this.page.locator('#list .title')
  }

  button(name) {
    return this.page.getByRole('button', { name, exact: true })
  }

  async say(text) {
    await this.field.fill(text)
    await this.field.press('Enter')
  }

  /** Waits until the last answer says exactly this, and is whole. */
  async hears(text) {
    const heard = (wanted) => {
      const answer = document.querySelector('.exchange:last-child .perch')
      return answer?.ariaBusy === 'false' && answer.querySelector('.prose').innerText === wanted
    }
    // What it says instead is worth more than how long it was waited for.
    await this.page.waitForFunction(heard, text).catch(() => {})
    same(await this.answers.last().locator('.prose').evaluate((prose) => prose.innerText), text, 'the answer')
    await this.page.waitForFunction(heard, text)
  }

  async talk(text) {
    await this.say(text)
    await this.hears(`You said: ${text}`)
  }

  /** Waits until the last answer has got so far. */
  async sees(text) {
    await this.answers.last().locator('.prose', { hasText: text }).waitFor()
  }

  async said() {
    return this.log.locator('.you .text, .prose:visible').allInnerTexts()
  }
}
