// What one would write with Node's `ws` for the same frames: rooms, ids, a history, presence; no extension.
// Started with a port; prints a line once it listens.
import { WebSocketServer } from 'ws'

const HISTORY = 100
const LARGEST = 64 * 1024
const SILENCE = 25_000 // milliseconds

const rooms = new Map()

function roomOf(name) {
  let room = rooms.get(name)
  if (!room) rooms.set(name, (room = { members: new Set(), said: [], last: 0, announced: 0 }))
  return room
}

// Text that is made once goes to everybody as the same bytes.
function broadcast(room, frame, but) {
  const bytes = Buffer.from(JSON.stringify(frame))
  for (const member of room.members) if (member !== but) member.send(bytes, { binary: false })
}

function announce(name, room, but) {
  if (room.timer) return
  const wait = room.announced + 1000 - Date.now()
  const tell = (but) => {
    room.timer = null
    room.announced = Date.now()
    broadcast(room, { type: 'members', room: name, members: room.members.size }, but)
  }
  if (wait <= 0) tell(but)
  else room.timer = setTimeout(tell, wait)
}

const wishes = {
  join(socket, { room: name, after }) {
    const room = roomOf(name)
    room.members.add(socket)
    socket.rooms.add(name)
    const history = after ? room.said.filter(({ id }) => id > after) : room.said
    socket.send(JSON.stringify({ type: 'joined', room: name, members: room.members.size, history }))
    announce(name, room, socket)
  },
  say(socket, { room: name, text, ref }) {
    const room = roomOf(name)
    room.last = Math.max(room.last + 1, Date.now() * 1000)
    const frame = { type: 'message', room: name, id: room.last, from: socket.name, text, at: new Date().toISOString() }
    room.said.push(frame)
    if (room.said.length > HISTORY) room.said.shift()
    broadcast(room, frame, socket)
    socket.send(JSON.stringify({ ...frame, ref }))
  },
  leave: (socket, { room }) => leave(socket, room),
}

function leave(socket, name) {
  const room = roomOf(name)
  room.members.delete(socket)
  socket.rooms.delete(name)
  announce(name, room)
}

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: Number(process.argv[2]),
  backlog: 4096,
  path: '/api/ws',
  perMessageDeflate: false,
  maxPayload: LARGEST,
})
let people = 0
server.on('connection', (socket) => {
  socket.rooms = new Set()
  socket.name = `guest${++people}`
  socket.alive = true
  socket.on('pong', () => (socket.alive = true))
  socket.on('message', (data) => {
    const frame = JSON.parse(data)
    wishes[frame.type](socket, frame)
  })
  socket.on('close', () => {
    for (const name of [...socket.rooms]) leave(socket, name)
  })
})
setInterval(() => {
  for (const socket of server.clients) {
    if (!socket.alive) socket.terminate()
    socket.alive = false
    socket.ping()
  }
}, SILENCE)
server.on('listening', () => console.log('listening'))
