// A browser that does what a person does on one page, and remembers what the page complained about.

import { mkdir } from 'node:fs/promises'
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

const STEP_TIMEOUT = 20_000 // milliseconds; the chat page alone tries again for ten seconds

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
  if (values.screenshots) await mkdir(values.screenshots, { recursive: true })

  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    chromiumSandbox: process.getuid() !== 0,
    args: QUIET,
  })
  const person = new Person(browser, what, positionals[0].replace(/\/$/, ''), values.screenshots)
  try {
    await story(person)
    console.log(`${what}: ok`)
  } catch (error) {
    await person.screenshot('failed').catch(() => {})
    console.error(`${what}: FAILED: ${person.doing}: ${plain(error.message)}`)
    process.exitCode = 1
  } finally {
    await browser.close()
  }
}

/** An error's words on one line, without Playwright's colours. */
function plain(text) {
  return text.replaceAll(/\u001b\[\d+m/g, '').trim().replaceAll(/\s*\n\s*/g, ' ')
}

class Person {
  doing = 'opens the page'
  complaints = []
  forgiven = null

  constructor(browser, what, address, screenshots) {
    Object.assign(this, { browser, what, address, screenshots })
  }

  /** Opens the page as somebody who was never here, with `options` of a browser context. */
  async arrive(options = {}) {
    await this.context?.close()
    this.context = await this.browser.newContext({ viewport: { width: 1200, height: 800 }, ...options })
    this.context.setDefaultTimeout(STEP_TIMEOUT)
    this.page = await this.context.newPage()
    await this.page.addInitScript(() => {
      addEventListener('securitypolicyviolation', (event) =>
        console.error(`content security policy: ${event.violatedDirective} stopped ${event.blockedURI}`),
      )
    })
    this.page.on('pageerror', (error) => this.complaints.push(`exception: ${plain(error.message)}`))
    this.page.on('console', (message) => {
      const text = `${message.text()} ${message.location().url}`
      if (message.type() === 'error' && !this.forgiven?.test(text)) this.complaints.push(text)
    })
    return this.page.goto(this.address)
  }

  /** One thing a person does; nothing may complain in the browser's console, but for what `forgiven` matches. */
  async step(doing, act, { forgiven = null } = {}) {
    this.doing = doing
    this.forgiven = forgiven
    await act(this.page)
    check(this.complaints.length === 0, `the browser complained: ${this.complaints.join('; ')}`)
  }

  async screenshot(name) {
    if (!this.screenshots || !this.page) return
    const path = join(this.screenshots, `${this.what.replaceAll(' ', '-')}-${name}.png`)
    await this.page.screenshot({ path, animations: 'disabled' })
  }

  /** Nothing may stick out of the window to the side. */
  async fitsTheWindow() {
    const [content, width] = await this.page.evaluate(() => {
      const scrollers = [...document.querySelectorAll('html, main, [role=log]')]
      const ends = scrollers.map((element) => element.getBoundingClientRect().left + element.scrollWidth)
      return [Math.max(...ends), innerWidth]
    })
    check(content <= width, `the page is ${content} px wide in a window of ${width} px`)
  }
}

export function check(holds, otherwise) {
  if (!holds) throw new Error(otherwise)
}

export function same(seen, wanted, what) {
  const [is, want] = [JSON.stringify(seen), JSON.stringify(wanted)]
  check(is === want, `${what} is ${is}, not ${want}`)
}
