-- What all transitions share: names, constants, and how a record is read. `record.lua`, `turn.lua`
-- and `moves.lua` follow it, and then a script of this folder.
--
-- KEYS[1] is the prefix of a shard, `darkroom:{s0}:`. A store that is no cluster has only this one.
-- All keys below begin with it. So a cluster keeps them on one node, and one script may touch them
-- all. ARGV[1] shifts the clock (seconds, 0 outside of tests). ARGV[2] is the retention of ended jobs
-- (seconds). The arguments of the script begin at ARGV[3]. A job is passed as one JSON document.
--
--   job:<id>         hash   the record: static parts, status, stamps, attempt, lease, result or failure; names of previews
--   flight:<key>     hash   the computation of a key: leader, promotions; once landed, the result until a cache has it
--   followers:<key>  list   jobs that wait for the flight, oldest first
--   outbox           zset   live leaders whose message is not confirmed by the broker, by last try
--   leases           zset   running jobs by the end of their lease
--   deadlines        zset   live jobs by deadline
--   waiting:<model>  zset   queued leaders by fair tag
--   tenant:<tenant>  zset   all jobs of a tenant by creation
--   counts           hash   how many jobs were ever recorded, and how many ended in each state: exact, for audits
--   mark             string the time of the last sweep; it shows whether the clock was set
--   hook:<id>        hash   the webhook that an ended job owes: event, status, attempt (made), owed_at,
--                            next_at, until
--   hooklog:<id>     list   attempts at that webhook, oldest first
--   hooks            zset   owed webhooks by due time
--   hooks            channel `<id>`, when one has become due
--   picture:<id>     hash   the images of an ended job that have an embedding, or an imported image: the tenant, and
--                            each record by the image's name
--   importers:<name> hash   the ids of all records of the imported image: one for each tenant that has it
--   imported:<tenant>:<sha256>  hash  the name of the image that the tenant has imported from a file of this hash
--   unindexed        zset   jobs and imports whose images the search index is owed, by due time
--   unindexed        channel `<id>`, when one has become due
--   review:<name>:<digit>  hash  an image that is or was held, for the jobs whose ids end in the digit: state,
--                            version, severity, created_at, case, votes, decision, appeal, `over`, second_look
--                            (what a model said), look_owed (since when), look_attempt (made), look_until, and
--                            for each job `job:<id>` with the image's places and the tenant
--   held:<id>        hash   the held images of an ended job: the file name of each, by its place
--   reviews          zset   held images that wait for a person, by severity and age
--   reviewed         zset   decided images, by time
--   unapplied        zset   decisions that are not carried out yet, by due time
--   discards         zset   reviews whose file is to be deleted, and that end undecided if they wait, by due time
--   refunds          zset   what blocked jobs are owed, by time: `<key id> <images> <charged at> <job id>`
--   unlooked         zset   reviews that a model owes a look, by due time
--   unlooked         channel `<name>:<digit>`, when one has become due
--   unwanted         zset   images that the search index must forget, by due time
--   events           channel `<id> <status>` or `<id> progress <step> <steps>`, one message per change.
--                            A final status is usually followed by a JSON document of the changes.
--                            `<id> preview <index> <name>` changes nothing. `<id> moderated <sequence>`
--                            says that people or a scan have decided on images of an ended job
--
-- Names without a shard. On a cluster, only scripts that get them as KEYS[1] touch them:
--
--   {fair:<model>}:finish  zset     each flow's last finish tag; under the empty name, the virtual time
--                                   of the model's queue; under `@`, when the time to live was set
--   result:<address>       string   the result cache, where it is on the same server
--   results:forgotten      channel  addresses whose results no longer hold
--   canceled:<worker>      channel  `<id>`, when a job was canceled while the worker ran it

local P = KEYS[1]
local ROOT = string.match(P, '^[^{]*')
local TIME = redis.call('TIME')
local NOW = tonumber(TIME[1]) + tonumber(TIME[2]) / 1e6 + tonumber(ARGV[1])
local RETENTION = tonumber(ARGV[2])
local MAX_PROMOTIONS = 2
local LANDED_GRACE_S = 10
local HOOK_KEEP_S = 4 * 86400 -- longer than the three days of attempts
local LAPSE_S = 3600 -- a review that nobody decides ends so long before its record
local REFUND_KEEP_S = 2 * 86400 -- as long as the images of a day are counted
local DOUBT_S = 10 -- a clock that is this far ahead of the last sweep may have been set
local TRIM = 4 -- places in its tenant's list that a new job checks
local WHOLE = 1048576 -- bytes of results and failures that one call publishes; beyond them, only statuses
local SLACK = 1 / 16 -- of the retention: data may be kept so much longer if that saves a command
local TERMINAL = { succeeded = true, failed = true, canceled = true, expired = true, withdrawn = true }

-- The fields of a record that transitions read.
local FIELDS = { 'status', 'attempt', 'tenant', 'key', 'model', 'tag', 'created_at', 'deadline', 'started_at', 'lease_until',
  'uncounted', 'sequence', 'step', 'steps', 'fault', 'webhook', 'worker' }

-- Lets the script go on if the server is at its `maxmemory`. Redis refuses such a script at its
-- first write, unless that write can only free memory (script.c, `scriptVerifyOOM`; the same from
-- 6.2 on). An accepted job must end, and that takes little room. Scripts that record something new
-- leave this out, and are refused. Others begin with a ZREM, which has the same effect.
local function regardless()
  redis.call('DEL', P .. 'nothing')
end

-- The answer of `call`, or {'failed', error}. An error in one of many does not affect the others.
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

-- The FIELDS of a job's record, as a table without absent ones; nil if there is no record.
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

-- Seconds left until a deadline. The sweep reads the clock every second. If it has not for long,
-- the clock may have been set forward. Then the time left at the last sweep counts, and no job ends
-- early.
local function left(deadline)
  local left_s = deadline - NOW
  local mark = left_s <= 0 and redis.call('GET', P .. 'mark')
  if mark and NOW - tonumber(mark) > DOUBT_S then
    return deadline - tonumber(mark)
  end
  return left_s
end

-- Publishes a change of the job to its watchers.
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
