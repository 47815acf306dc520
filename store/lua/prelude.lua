-- What every transition shares: names, constants, and how a record is read. `record.lua`, `turn.lua` and `moves.lua` come behind it, and then a
-- script of this folder.
--
-- KEYS[1] is the prefix of a shard, `darkroom:{s0}:`; a store that is no cluster has only this one. All keys below begin with it, so that
-- in a cluster they live together and one script may touch them all. ARGV[1] shifts the clock (seconds, 0 outside of tests), ARGV[2] is the
-- retention of ended jobs (seconds). The arguments of a script itself begin at ARGV[3]; where it is told of a job, that is one JSON document.
--
--   job:<id>         hash   the record: static parts, status, stamps, attempt, lease, result or failure; names of previews
--   flight:<key>     hash   the computation of a key: leader, promotions, result once it has landed and no cache has it
--   followers:<key>  list   jobs that wait for the flight, oldest first
--   outbox           zset   live leaders whose message is not known to be with the broker, by the time it was last tried
--   leases           zset   running jobs by the end of their lease
--   deadlines        zset   live jobs by deadline
--   waiting:<model>  zset   queued leaders by fair tag
--   tenant:<tenant>  zset   all jobs of a tenant by creation
--   counts           hash   how many jobs were ever recorded, and how many ended in each state: exact, for audits
--   mark             string the time of the last sweep, by which a clock that was set is told from time that has passed
--   hook:<id>        hash   the webhook that an ended job owes: event, status, attempt (made), owed_at, next_at, until
--   hooklog:<id>     list   its attempts, oldest first
--   hooks            zset   owed webhooks by the time at which they are due
--   hooks            channel `<id>`, when one has become due
--   events           channel `<id> <status>` or `<id> progress <step> <steps>`, one message per change; behind a status that is the
--                            last, as a rule, a JSON document of what has changed; and `<id> preview <index> <name>`, which changes nothing
--
-- Names without a shard, which no script of a cluster touches but those that are given them as KEYS[1]:
--
--   {fair:<model>}:finish  zset     each flow's last finish tag; the virtual time of the model's queue, under the empty name; and under `@`
--                                   when the time to live of it all was set
--   result:<address>       string   the result cache, where it is on the same server
--   results:forgotten      channel  addresses whose results do not hold any more
--   canceled:<worker>      channel  `<id>`, when a job was canceled in the worker's hands

local P = KEYS[1]
local ROOT = string.match(P, '^[^{]*')
local TIME = redis.call('TIME')
local NOW = tonumber(TIME[1]) + tonumber(TIME[2]) / 1e6 + tonumber(ARGV[1])
local RETENTION = tonumber(ARGV[2])
local MAX_PROMOTIONS = 2
local LANDED_GRACE_S = 10
local HOOK_KEEP_S = 4 * 86400 -- longer than the three days of attempts
local DOUBT_S = 10 -- a clock that is this far ahead of the last sweep may have been set
local TRIM = 4 -- places that a new job looks at in its tenant's list
local WHOLE = 1048576 -- bytes of results and failures that one call tells those who watch; the rest hear the status, and read the record
local SLACK = 1 / 16 -- of the retention: what is kept may be kept so much longer, where that saves a command
local TERMINAL = { succeeded = true, failed = true, canceled = true, expired = true, withdrawn = true }

-- What transitions ask a record for.
local FIELDS = { 'status', 'attempt', 'tenant', 'key', 'model', 'tag', 'created_at', 'deadline', 'started_at', 'lease_until',
  'uncounted', 'sequence', 'step', 'steps', 'fault', 'webhook', 'worker' }

-- Lets the script go on where the server is at its `maxmemory`. There a script is refused at its first write, unless that one can
-- only free memory (Redis' script.c, `scriptVerifyOOM`; the same from 6.2 on). What is accepted must end, and takes little room.
-- Scripts that record something new leave this out, and are refused; others begin with a ZREM, which does as well.
local function regardless()
  redis.call('DEL', P .. 'nothing')
end

-- What `call` answers, or {'failed', error}: one of many that breaks spoils none of the others.
local function apart(call, ...)
  local done, answer = pcall(call, ...)
  return done and answer or { 'failed', type(answer) == 'table' and answer.err or tostring(answer) }
end

local function seconds(time)
  return string.format('%.6f', time)
end

local function precise(tag)
  return string.format('%.17g', tag)
end

local function job_key(id)
  return P .. 'job:' .. id
end

local function field(id, name)
  return redis.call('HGET', job_key(id), name)
end

-- The record of a job, as far as FIELDS go: a table without what is not there; nil where there is no record.
local function load(id)
  local values = redis.call('HMGET', job_key(id), unpack(FIELDS))
  if not values[1] then
    return nil
  end
  local job = { id = id }
  for i, name in ipairs(FIELDS) do
    job[name] = values[i] or nil
  end
  return job
end

local function is_live(job)
  return job and not TERMINAL[job.status]
end

local function live(id)
  local status = field(id, 'status')
  return status and not TERMINAL[status]
end

local function expire_at(key, time)
  redis.call('PEXPIREAT', key, math.ceil(time * 1000))
end

-- What is left of a deadline, in seconds. The sweep looks at the clock every second. Where it has not looked for long, the clock
-- may have been set forward: then what was left at the last sweep still is, and no job ends early.
local function left(deadline)
  local left_s = deadline - NOW
  local mark = left_s <= 0 and redis.call('GET', P .. 'mark')
  if mark and NOW - tonumber(mark) > DOUBT_S then
    return deadline - tonumber(mark)
  end
  return left_s
end

-- Tells those who watch the job of a change.
local function tell(id, change)
  redis.call('PUBLISH', P .. 'events', id .. ' ' .. change)
end

-- The number of the next change of a record.
local function next_sequence(job)
  return (tonumber(job.sequence) or 0) + 1
end

local function count(what)
  redis.call('HINCRBY', P .. 'counts', what, 1)
end
