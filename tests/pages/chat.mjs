// What a person does on the chat page of a perch with the echo backend.
//   node tests/pages/chat.mjs http://127.0.0.1:8080 [--screenshots DIR]

import { check, same, visit } from './browser.mjs'

const REFUSED = /api\/chat/ // the browser's own line about a request that was made to fail

await visit('chat page', async (person) => {
  const answer = await person.arrive({ colorScheme: 'light' })

  const field = () => person.page.getByRole('textbox', { name: 'Message', exact: true })
  const button = (name) => person.page.getByRole('button', { name, exact: true })
  const log = () => person.page.getByRole('log', { name: 'Conversation' })
  const turns = () => log().getByRole('article')

  const say = async (text) => {
    await field().fill(text)
    await field().press('Enter')
  }
  const hears = async (text) => {
    const reply = turns().last()
    await reply.getByRole('heading', { name: 'perch', exact: true }).waitFor({ state: 'attached' })
    same(await reply.locator('p').evaluate((p) => p.textContent), text, 'the reply')
  }
  const said = async () => (await log().locator('.text:visible').allTextContents()).join(' | ')

  /** Makes the next requests to the API fail, one a `fault`, and notes what was asked. */
  const asked = []
  const faulty = async (...faults) => {
    asked.length = 0
    await person.page.unroute('**/api/chat')
    await person.page.route('**/api/chat', (route) => {
      asked.push(route.request().postDataJSON())
      const fault = faults.shift()
      return fault ? fault(route) : route.continue()
    })
  }
  const refused = (route) => route.abort('connectionrefused')
  const problem = (status, title, detail, headers = {}) => (route) =>
    route.fulfill({
      status,
      headers,
      contentType: 'application/problem+json',
      body: JSON.stringify({ type: 'about:blank', title, status, detail, request_id: '0123456789abcdef' }),
    })

  await person.step('finds a page with a strict policy, ready to write on', async (page) => {
    same(answer.status(), 200, 'the status of /')
    const policy = answer.headers()['content-security-policy'] ?? ''
    check(/default-src 'none'/.test(policy) && !/unsafe/.test(policy), `the content security policy is '${policy}'`)
    same(await page.title(), 'perch', 'the title')
    check(await field().evaluate((element) => element === document.activeElement), 'the message field is not focused')
    await button('New conversation').waitFor()
    await button('Send').waitFor()
    const birds = await page.evaluate(() => [...document.images].map((image) => image.naturalWidth > 0))
    same(birds, [true, true], 'which birds are there')
    await person.screenshot('empty')
  })

  await person.step('says hello and hears it back', async () => {
    await say('hello')
    await hears('hello')
    same(await field().inputValue(), '', 'the field after sending')
  })

  await person.step('writes several lines', async (page) => {
    await field().fill('first')
    const low = (await field().boundingBox()).height
    await field().press('Shift+Enter')
    await page.keyboard.type('second')
    check((await field().boundingBox()).height > low, 'the field did not grow')
    await field().press('Enter')
    await hears('first\nsecond')
  })

  await person.step('composes a word with an input method', async () => {
    await field().fill('にほん')
    await field().dispatchEvent('keydown', { key: 'Enter', isComposing: true })
    await field().dispatchEvent('keydown', { key: 'Enter', keyCode: 229 })
    same(await field().inputValue(), 'にほん', 'the field while composing')
    await field().press('Enter')
    await hears('にほん')
  })

  await person.step('writes from right to left', async () => {
    await say('שלום, מי יושב על הענף?')
    await hears('שלום, מי יושב על הענף?')
    same(await turns().last().locator('p').evaluate((p) => getComputedStyle(p).direction), 'rtl', 'the direction')
  })

  await person.step('writes markup and sees it as text', async (page) => {
    const markup = '<img src=x onerror="document.title=1"><b>bold</b> &amp;'
    await say(markup)
    await hears(markup)
    same(await log().locator('img, b').count(), 0, 'the number of elements made from text')
    same(await page.title(), 'perch', 'the title')
  })

  await person.step('sends nothing', async () => {
    const before = await turns().count()
    await field().fill('  \n ')
    await field().press('Enter')
    same(await turns().count(), before, 'the number of turns')
    await field().fill('')
  })

  await person.step(
    'sees an error at its message, writes on, and tries that message again',
    async () => {
      await faulty(problem(500, 'Internal Server Error', 'Something broke.'))
      await say('this one fails')
      await log().getByText('Something broke.').waitFor()
      await log().getByText('0123456789abcdef').waitFor()
      await say('this one does not')
      await hears('this one does not')
      await person.screenshot('error')
      asked.length = 0
      await button('Retry').click()
      await button('Retry').waitFor({ state: 'hidden' })
      await log().getByText('this one fails').nth(1).waitFor()
      same(asked.map((body) => body.message), ['this one fails'], 'what was sent again')
      const end = (await said()).split(' | ').slice(-4)
      same(end, ['this one fails', 'this one fails', 'this one does not', 'this one does not'], 'the order')
    },
    { forgiven: REFUSED },
  )

  await person.step(
    'takes a refused message back to mend it',
    async () => {
      await faulty(problem(413, 'Content Too Large', 'Too long.'))
      await say('far too long')
      await log().getByText('Too long.').waitFor()
      await field().fill('and a draft')
      await button('Edit').click()
      same(await field().inputValue(), 'far too long\nand a draft', 'the field')
      same(await log().getByText('far too long').count(), 0, 'the number of such messages in the log')
      await field().fill('')
    },
    { forgiven: REFUSED },
  )

  await person.step(
    'does not notice that perch restarts',
    async () => {
      await faulty(refused, problem(503, 'Service Unavailable', 'Draining.', { 'retry-after': '1' }))
      await say('are you there?')
      await log().getByText('trying again').waitFor()
      await log().getByText('are you there?').nth(1).waitFor()
      await hears('are you there?')
      same(asked.length, 3, 'the number of requests')
    },
    { forgiven: REFUSED },
  )

  await person.step(
    'comes back later and finds everything as it was',
    async (page) => {
      await faulty(problem(500, 'Internal Server Error', 'Something broke.'))
      await say('left behind')
      await button('Retry').waitFor()
      await field().pressSequentially('half a thou')
      const before = await said()
      await page.reload()
      same(await said(), before, 'the conversation')
      same(await field().inputValue(), 'half a thou', 'the draft')
      await faulty()
      await button('Retry').click()
      await hears('left behind')
      check(asked[0].conversation, 'the conversation was not carried on')
      await say('still the same?')
      await hears('still the same?')
      same(asked[1].conversation, asked[0].conversation, 'the conversation')
    },
    { forgiven: REFUSED },
  )

  await person.step(
    'goes on though perch forgot the conversation',
    async () => {
      await faulty(problem(404, 'Not Found', 'No such conversation.'))
      await say('remember me?')
      await log().getByText('no longer remembers').waitFor()
      await hears('remember me?')
      same(asked.map((body) => 'conversation' in body), [true, false], 'what carried a conversation')
    },
    { forgiven: REFUSED },
  )

  await person.step('begins a new conversation, and goes back', async () => {
    await faulty()
    const before = await said()
    await button('New conversation').click()
    same(await turns().count(), 0, 'the number of turns')
    await button('Go back to the last conversation').click()
    same(await said(), before, 'the conversation')
    await button('New conversation').click()
    await say('a fresh start')
    await hears('a fresh start')
    check(!asked[0].conversation, 'the new conversation carried the old one')
  })

  await person.step(
    'uses the keyboard alone',
    async (page) => {
      await faulty(problem(500, 'Internal Server Error', 'Something broke.'))
      await page.reload()
      await page.keyboard.type('by keyboard')
      await page.keyboard.press('Tab')
      check(await button('Send').evaluate((element) => element === document.activeElement), 'Tab does not reach Send')
      await page.keyboard.press('Enter')
      await button('Retry').waitFor()
      for (let tabs = 0; tabs < 10; tabs += 1) {
        await page.keyboard.press('Shift+Tab')
        if (await button('Retry').evaluate((element) => element === document.activeElement)) break
      }
      const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle)
      same(outline, 'solid', 'the outline of what is focused')
      await page.keyboard.press('Enter')
      await hears('by keyboard')
      check(await field().evaluate((element) => element === document.activeElement), 'the focus was lost after Retry')
    },
    { forgiven: REFUSED },
  )

  await person.step('scrolls up and is left in peace', async (page) => {
    for (let line = 1; line <= 12; line += 1) {
      await say(`line ${line}`)
      await hears(`line ${line}`)
    }
    const main = page.getByRole('main')
    const below = () => main.evaluate((element) => element.scrollHeight - element.scrollTop - element.clientHeight)
    check((await below()) < 2, `the newest turn is ${await below()} px below the window`)
    await page.route('**/api/chat', async (route) => {
      await main.evaluate((element) => (element.scrollTop = 0))
      await route.continue()
    })
    await say('while you read')
    await hears('while you read')
    same(await main.evaluate((element) => element.scrollTop), 0, 'the place of somebody reading')
  })

  await person.arrive({ viewport: { width: 320, height: 640 }, colorScheme: 'dark', reducedMotion: 'reduce' })
  await person.step('has a small, dark, calm screen', async (page) => {
    await say(`a long word: ${'perch'.repeat(60)}`)
    await turns().nth(1).waitFor()
    await person.fitsTheWindow()
    await person.screenshot('small-dark')
    const moving = await page.evaluate(() => document.getAnimations().length)
    same(moving, 0, 'the number of animations')
  })

  await person.arrive({ viewport: { width: 390, height: 800 }, hasTouch: true, isMobile: true })
  await person.step('writes lines on a phone, whose keyboard has no Shift+Enter', async () => {
    await field().tap()
    await field().pressSequentially('first\nsecond')
    same(await turns().count(), 0, 'the number of turns')
    await button('Send').tap()
    await turns().nth(1).waitFor()
    await hears('first\nsecond')
    await person.fitsTheWindow()
    await person.screenshot('phone')
  })
})
