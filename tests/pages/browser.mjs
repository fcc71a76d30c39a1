// A browser that does what a person does on one page, and remembers what the page complained about.

import { mkdir } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { chromium } from 'playwright-core'

const QUIET = [
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-gpu',
  '--disable-quic',
  '--disable-sync',
  '--no-first-run',
]

const STEP_TIMEOUT = 20_000 // milliseconds; the chat page alone tries again for longer

/** Runs `story(person)` on the page whose address is the command's argument; the exit code says how it went. */
export async function visit(what, story) {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { screenshots: { type: 'string' } },
  })
  if (positionals.length !== 1) {
    console.error(`usage: node ${process.argv[1]} http://HOST:PORT [--screenshots DIR]`)
    process.exit(2)
  }
  await withBrowser(values.screenshots, async (browser) => {
    const person = new Person(browser, what, positionals[0].replace(/\/$/, ''), values.screenshots)
    try {
      await story(person)
      console.log(`${what}: ok`)
    } catch (error) {
      await person.screenshot('failed').catch(() => {})
      console.error(`${what}: FAILED: ${person.doing}: ${plain(error.message)}`)
      process.exitCode = 1
    }
  })
}

/**
 * Tells `stories`, `{name: async (person) => …}`, each with a person who was never here. `stage(binary)` gives what they
 * play on, `{address, begin(), log(), end()}` and what else they want to know of it.
 */
export async function tell(what, stage, stories) {
  const { values } = parseArgs({
    options: { perch: { type: 'string' }, screenshots: { type: 'string' }, only: { type: 'string', default: '' } },
  })
  if (!values.perch) {
    console.error(`usage: node ${process.argv[1]} --perch BINARY [--screenshots DIR] [--only PART-OF-A-NAME]`)
    process.exit(2)
  }
  const set = await stage(values.perch)
  try {
    await withBrowser(values.screenshots, async (browser) => {
      for (const [name, story] of Object.entries(stories).filter(([name]) => name.includes(values.only))) {
        const person = new Person(browser, name, set.address, values.screenshots)
        person.doing = name
        set.begin()
        try {
          await story(person, set)
          person.hasNoComplaint()
          await person.screenshot()
          console.log(`${what}: ${name}: ok`)
        } catch (error) {
          await person.screenshot('failed').catch(() => {})
          console.error(`${what}: ${name}: FAILED: ${plain(error.message)}${place(error)}`)
          process.exitCode = 1
        } finally {
          await person.context?.close()
        }
      }
    })
    if (process.exitCode) console.error(set.log())
  } finally {
    set.end()
  }
}

async function withBrowser(screenshots, act) {
  if (screenshots) await mkdir(screenshots, { recursive: true })
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    chromiumSandbox: process.getuid() !== 0,
    args: QUIET,
  })
  try {
    await act(browser)
  } finally {
    await browser.close()
  }
}

/** An error's words on one line, without Playwright's colours. */
function plain(text) {
  return text.replaceAll(/\u001b\[\d+m/g, '').trim().replaceAll(/\s*\n\s*/g, ' ')
}

/** Where in a story it went wrong. */
function place(error) {
  const lines = error.stack.match(/[\w-]+\.mjs:\d+/g) ?? []
  return ` (${lines.filter((line) => !line.startsWith('browser.')).join(', ')})`
}

class Person {
  doing = 'opens the page'
  complaints = []
  forgiven = null

  constructor(browser, what, address, screenshots) {
    Object.assign(this, { browser, what, address, screenshots })
  }

  /** Opens the page as somebody who was never here, with `options` of a browser context. */
  async arrive({ path = '', ...options } = {}) {
    await this.context?.close()
    this.context = await this.browser.newContext({ viewport: { width: 1280, height: 800 }, ...options })
    this.context.setDefaultTimeout(STEP_TIMEOUT)
    await this.context.addInitScript(() => {
      addEventListener('securitypolicyviolation', (event) =>
        console.error(`content security policy: ${event.violatedDirective} stopped ${event.blockedURI}`),
      )
    })
    return this.openTab(path)
  }

  /** Opens the page in another tab of the same browser. */
  async openTab(path = '') {
    this.page = await this.context.newPage()
    this.page.on('pageerror', (error) => this.complaints.push(`exception: ${plain(error.message)}`))
    this.page.on('console', (message) => {
      const text = `${message.text()} ${message.location().url}`
      if (message.type() === 'error' && !this.forgiven?.test(text)) this.complaints.push(text)
    })
    return this.page.goto(this.address + path)
  }

  /** One thing a person does; nothing may complain in the browser's console, but for what `forgiven` matches. */
  async step(doing, act, { forgiven = null } = {}) {
    this.doing = doing
    this.forgiven = forgiven
    await act(this.page)
    this.hasNoComplaint()
  }

  hasNoComplaint() {
    check(this.complaints.length === 0, `the browser complained: ${this.complaints.join('; ')}`)
  }

  async screenshot(name = '') {
    if (!this.screenshots || !this.page) return
    const file = `${this.what} ${name}`.trim().replaceAll(/[^\p{L}\p{N}]+/gu, '-')
    await this.page.screenshot({ path: join(this.screenshots, `${file}.png`), animations: 'disabled' })
  }

  /** Nothing may stick out of the window to the side. */
  async fitsTheWindow() {
    const [content, width] = await this.page.evaluate(() => {
      const scrollers = [...document.querySelectorAll('html, body, main, header, form, #scroller, [role=log]')]
      const ends = scrollers.map((element) => element.getBoundingClientRect().left + element.scrollWidth)
      return [Math.max(...ends), innerWidth]
    })
    check(content <= width, `the page is ${content} px wide in a window of ${width} px`)
  }

  /** What axe-core has against the page as it is now: WCAG 2.2 AA and what is good practice. */
  async isAccessible() {
    await this.page.evaluate(AXE)
    const found = await this.page.evaluate(async () => {
      const { violations } = await globalThis.axe.run(document, {
        runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'],
      })
      return violations.flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id}: ${target}: ${failureSummary}`))
    })
    check(found.length === 0, found.join('; '))
  }
}

const { source: AXE } = createRequire(import.meta.url)('axe-core')

export function check(holds, otherwise) {
  if (!holds) throw new Error(otherwise)
}

export function same(seen, wanted, what) {
  const [is, want] = [JSON.stringify(seen), JSON.stringify(wanted)]
  check(is === want, `${what} is ${is}, not ${want}`)
}

/** Waits until it is so. */
export async function until(holds, what) {
  const deadline = Date.now() + STEP_TIMEOUT
  while (!(await holds())) {
    check(Date.now() < deadline, `waited in vain for ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
