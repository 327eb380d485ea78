// Fastify and node-postgres, as fast as people write it: schemas for input and output, a pool, pino, prom-client.
import cluster from 'node:cluster'
import { createHash, randomBytes } from 'node:crypto'
import Fastify from 'fastify'
import pg from 'pg'
import pino from 'pino'
import client from 'prom-client'

const port = Number(process.env.PORT)
const workers = Number(process.env.WEB_CONCURRENCY)

if (cluster.isPrimary) {
  const aggregator = new client.AggregatorRegistry()
  for (let n = 0; n < workers; n++) cluster.fork()
  const scrape = Fastify()
  scrape.get('/metrics', async (_, reply) => reply.type(aggregator.contentType).send(await aggregator.clusterMetrics()))
  await scrape.listen({ port: Number(process.env.METRICS_PORT), host: '127.0.0.1' })
  process.on('SIGTERM', () => {
    for (const worker of Object.values(cluster.workers)) worker.process.kill('SIGTERM')
    setTimeout(() => process.exit(0), 200)
  })
} else {
  new client.AggregatorRegistry() // answers the primary's question
  await serve()
}

async function serve () {
  const labels = ['method', 'path', 'status']
  const requests = new client.Counter({ name: 'http_requests_total', help: 'Requests.', labelNames: labels })
  const duration = new client.Histogram({
    name: 'http_request_duration_seconds',
    help: 'Seconds.',
    labelNames: ['method', 'path'],
    buckets: [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
  })

  // As text: a Date would cut microseconds off.
  pg.types.setTypeParser(1184, text => text.replace(' ', 'T').replace(/\+00$/, 'Z'))
  pg.types.setTypeParser(1700, Number)
  pg.types.setTypeParser(20, Number)
  const pool = new pg.Pool({
    connectionString: process.env.DATABASE_URL, max: 10, statement_timeout: 5000, options: '-c timezone=UTC'
  })

  const app = Fastify({
    loggerInstance: pino({ level: 'info', timestamp: pino.stdTimeFunctions.isoTime }),
    disableRequestLogging: true,
    genReqId: request => trace(request.headers['x-trace-id']),
    requestIdLogLabel: 'trace_id',
    ajv: { customOptions: { coerceTypes: false, removeAdditional: false } }
  })

  app.addHook('onRequest', async (request, reply) => { reply.header('X-Trace-ID', request.id) })
  app.addHook('onResponse', async (request, reply) => {
    const path = request.routeOptions.url ?? 'unmatched'
    requests.inc({ method: request.method, path, status: reply.statusCode })
    duration.observe({ method: request.method, path }, reply.elapsedTime / 1000)
    request.log.info({
      method: request.method,
      path: request.url,
      status: reply.statusCode,
      duration_ms: reply.elapsedTime,
      client: request.ip
    }, 'request')
  })
  app.setErrorHandler((error, request, reply) => {
    if (error.validation) return reply.code(422).send({ detail: error.message })
    if (error.statusCode < 500) return reply.code(error.statusCode).send({ detail: error.message })
    request.log.error(error)
    return reply.code(500).send({ detail: 'Internal server error' })
  })

  const columns = 'id, name, price, description, created_at, updated_at, version'
  const get = { name: 'get', text: `SELECT ${columns} FROM items WHERE id = $1` }
  const page = { name: 'page', text: `SELECT ${columns} FROM items WHERE id > $1 ORDER BY id LIMIT $2` }
  const insertText = `INSERT INTO items (name, price, description) VALUES ($1, $2, $3) RETURNING ${columns}`
  const insert = { name: 'insert', text: insertText }
  const insertOnce = {
    name: 'insert_once',
    text: `WITH new AS (${insertText}),
      stored AS (INSERT INTO idempotency_keys (key, fingerprint, rows)
        SELECT $4, $5, jsonb_agg(to_jsonb(new)) FROM new)
      SELECT ${columns} FROM new`
  }
  const storedText = `SELECT k.fingerprint, ${columns.split(', ').map(name => 'i.' + name).join(', ')}
    FROM idempotency_keys AS k, jsonb_populate_recordset(NULL::items, k.rows) AS i WHERE k.key = $1`
  const stored = { name: 'stored', text: storedText }

  const item = {
    type: 'object',
    properties: {
      id: { type: 'integer' },
      name: { type: 'string' },
      price: { type: 'number' },
      description: { type: 'string', nullable: true },
      created_at: { type: 'string' },
      updated_at: { type: 'string' }
    }
  }
  const fields = {
    name: { type: 'string', minLength: 1, maxLength: 255, pattern: '^[\\p{L}\\p{N}]+$' },
    price: { type: 'number', exclusiveMinimum: 0, maximum: 9999999999.99 },
    description: { type: 'string', nullable: true, maxLength: 10000 }
  }
  const input = { type: 'object', additionalProperties: false, properties: fields }
  const params = { type: 'object', properties: { id: { type: 'string', pattern: '^[1-9][0-9]{0,18}$' } } }

  function checkPrice ({ price }) {
    // At most two decimals; `multipleOf` would stumble over binary fractions.
    if (price !== undefined && Number(price.toFixed(2)) !== price) {
      throw Object.assign(new Error('body/price must have at most two decimals'), { statusCode: 422 })
    }
  }

  function answer (row, reply) {
    if (!row) return reply.code(404).send({ detail: 'Item not found' })
    reply.header('ETag', `"${row.version}"`)
    return row
  }

  app.get('/items/:id', { schema: { params, response: { 200: item } } }, async (request, reply) => {
    const { rows } = await pool.query({ ...get, values: [request.params.id] })
    return answer(rows[0], reply)
  })

  app.post('/items', {
    schema: { body: { ...input, required: ['name', 'price'] }, response: { 201: item } }
  }, async (request, reply) => {
    checkPrice(request.body)
    const { name, price, description = null } = request.body
    const key = request.headers['idempotency-key']
    let rows
    if (key === undefined) {
      ({ rows } = await pool.query({ ...insert, values: [name, price, description] }))
    } else {
      const fingerprint = createHash('sha256').update(JSON.stringify([name, price, description])).digest()
      try {
        ({ rows } = await pool.query({ ...insertOnce, values: [name, price, description, key, fingerprint] }))
      } catch (error) {
        if (error.code !== '23505') throw error;
        ({ rows } = await pool.query({ ...stored, values: [key] }))
        if (!rows[0].fingerprint.equals(fingerprint)) {
          return reply.code(422).send({ detail: 'This Idempotency-Key was used for another request' })
        }
      }
    }
    reply.code(201).header('Location', `/items/${rows[0].id}`)
    return answer(rows[0], reply)
  })

  app.get('/items', {
    schema: {
      querystring: {
        type: 'object',
        properties: { limit: { type: 'string', pattern: '^([1-9][0-9]?|100)$' }, cursor: { type: 'string' } }
      },
      response: {
        200: {
          type: 'object',
          properties: { items: { type: 'array', items: item }, next_cursor: { type: 'string', nullable: true } }
        }
      }
    }
  }, async request => {
    const limit = Number(request.query.limit ?? 20)
    const after = request.query.cursor ? Buffer.from(request.query.cursor, 'base64url').toString() : 0
    const { rows } = await pool.query({ ...page, values: [after, limit + 1] })
    const items = rows.slice(0, limit)
    const more = rows.length > limit
    return { items, next_cursor: more ? Buffer.from(String(items.at(-1).id)).toString('base64url') : null }
  })

  app.patch('/items/:id', { schema: { params, body: input, response: { 200: item } } }, async (request, reply) => {
    checkPrice(request.body)
    const names = Object.keys(request.body) // only those of the schema
    const sets = names.map((name, n) => `${name} = $${n + 2}, `).join('')
    const { rows } = await pool.query({
      name: 'update_' + names.join('_'),
      text: `UPDATE items SET ${sets}version = version + 1, updated_at = now() WHERE id = $1 RETURNING ${columns}`,
      values: [request.params.id, ...Object.values(request.body)]
    })
    return answer(rows[0], reply)
  })

  app.get('/health/live', async () => ({ status: 'alive' }))

  await app.listen({ port, host: '127.0.0.1' })
}

function trace (given) {
  return given !== undefined && /^[A-Za-z0-9._-]{1,128}$/.test(given) ? given : randomBytes(16).toString('hex')
}
