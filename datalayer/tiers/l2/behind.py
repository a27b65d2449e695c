"""Queued writes in Redis: their numbers, the values that readers see until the database has them, and the stream.

Section 8 of the Epoch-Fenced Marks protocol. More fields of a shard's header:

====================  ============================================================================================
``s``                 the last sequence number of the epoch
``cw``                the largest sequence number that was cleared
``o:<name>``          the sequence number of the overlay on a key: whatever evicts the overlay leaves this
====================  ============================================================================================

An overlay is ``O<epoch>|<count>|<payload>`` in the place of the value, without an end: the entry of a row, ``N`` for a
deleted one, or nothing when the row is known to be changing but not to what (queued additions). The stream
``{<prefix>:<shard>}:j`` holds the journal ``redis``; the id of an entry is its sequence number, ``<epoch>-<count>``, so
that no clock has a say in it.
"""

from __future__ import annotations

from .scripts import _EPOCH, _OOM, sha

#: KEYS header · ARGV lineage, epoch, how many -> {'OK', the last of them}
NEXTSEQ = (
    _OOM
    + _EPOCH
    + b"""
return {'OK', redis.call('HINCRBY', KEYS[1], 's', ARGV[3])}
"""
)

_LAY = b"""
local function lay(key, name, n, payload)
  redis.call('SET', key, 'O' .. ARGV[2] .. '|' .. n .. '|' .. payload)
  redis.call('HSET', KEYS[1], 'o:' .. name, n)
end
"""

#: KEYS header, values · ARGV lineage, epoch, publish, channel, (name, count, payload) of each
#: -> {'OK', q, 1 or 0 of each}: 0 where a newer write was flushed already, so that this one must be, too
OVERLAY = (
    _EPOCH
    + _LAY
    + b"""
local q = redis.call('HINCRBY', KEYS[1], 'q', 1)
local cw = tonumber(redis.call('HGET', KEYS[1], 'cw') or '0')
local out, names = {'OK', q}, {}
for k = 2, #KEYS do
  local at = 5 + 3 * (k - 2)
  local name, n = ARGV[at], tonumber(ARGV[at + 1])
  names[#names + 1] = name
  if n <= cw then
    out[#out + 1] = 0
  else
    local o = redis.call('HGET', KEYS[1], 'o:' .. name)
    if not o or tonumber(o) < n then lay(KEYS[k], name, ARGV[at + 1], ARGV[at + 2]) end
    out[#out + 1] = 1
  end
end
redis.call(ARGV[3], ARGV[4], 'inv ' .. ARGV[2] .. ' ' .. q .. ' ' .. table.concat(names, ' '))
return out
"""
)

#: KEYS header, stream, values · ARGV lineage, epoch, publish, channel, epoch of the numbers, most entries,
#: (name, kind, key, body) of each -> {'OK', q, count of each} {'FULL'} {'IDS'}
ENQUEUE = (
    _EPOCH
    + _LAY
    + b"""
if redis.call('XLEN', KEYS[2]) + #KEYS - 2 > tonumber(ARGV[6]) then return {'FULL'} end
local q = redis.call('HINCRBY', KEYS[1], 'q', 1)
local out, names = {'OK', q}, {}
for k = 3, #KEYS do
  local at = 7 + 4 * (k - 3)
  local name, kind, body = ARGV[at], ARGV[at + 1], ARGV[at + 3]
  local n = string.format('%.0f', redis.call('HINCRBY', KEYS[1], 's', 1))
  local done = redis.pcall('XADD', KEYS[2], ARGV[5] .. '-' .. n, 'n', name, 'k', kind, 'y', ARGV[at + 2], 'p', body)
  if type(done) == 'table' and done.err then return {'IDS'} end
  if kind == 'd' then body = 'N' elseif kind == 'a' then body = '' end
  lay(KEYS[k], name, n, body)
  names[#names + 1] = name
  out[#out + 1] = n
end
redis.call(ARGV[3], ARGV[4], 'inv ' .. ARGV[2] .. ' ' .. q .. ' ' .. table.concat(names, ' '))
return out
"""
)

#: KEYS header, values · ARGV lineage, epoch, (name, count or 0 for one of an older epoch) of each -> {'OK', removed}
CLEAR = (
    _OOM
    + _EPOCH
    + b"""
local cw, removed, p = tonumber(redis.call('HGET', KEYS[1], 'cw') or '0'), 0, 'O' .. ARGV[2] .. '|'
local before = cw
for k = 2, #KEYS do
  local name, n = ARGV[3 + 2 * (k - 2)], tonumber(ARGV[4 + 2 * (k - 2)])
  if n > cw then cw = n end
  local o = redis.call('HGET', KEYS[1], 'o:' .. name)
  if o and tonumber(o) <= n then
    redis.call('HDEL', KEYS[1], 'o:' .. name)
    o = false
  end
  if not o then
    local v = redis.call('GETRANGE', KEYS[k], 0, 0)
    if v == 'O' then removed = removed + redis.call('DEL', KEYS[k]) end
  end
end
if cw > before then redis.call('HSET', KEYS[1], 'cw', string.format('%.0f', cw)) end
return {'OK', removed}
"""
)

ALL = {"NEXTSEQ": NEXTSEQ, "OVERLAY": OVERLAY, "ENQUEUE": ENQUEUE, "CLEAR": CLEAR}
SHA = {name: sha(script) for name, script in ALL.items()}
