"""What must happen in Redis in one step. Every script touches one shard; KEYS[1] is its header.

The header is a hash: ``e`` the epoch id ``<number>.<nonce>``, ``f`` the fill counter, ``n:<space>`` generations.
"""

from __future__ import annotations

import hashlib

#: KEYS header · ARGV least number, nonce, force -> the epoch id in force. ``force`` makes a new one in any case.
OPEN = b"""
local e = redis.call('HGET', KEYS[1], 'e')
local n = e and tonumber(string.match(e, '^(%d+)%.')) or 0
local least = tonumber(ARGV[1])
if ARGV[3] ~= '1' and n >= least then return e end
if n >= least then least = n + 1 end
local id = string.format('%d', least) .. '.' .. ARGV[2]
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'e', id, 'f', 0)
return id
"""

#: KEYS header, value · ARGV epoch, generation field, token, px
#: -> {'E'} other epoch | {'V', value, pttl} | {'B'} busy | {'L', generation}
LEASE = b"""
local h = redis.call('HMGET', KEYS[1], 'e', ARGV[2])
if h[1] ~= ARGV[1] then return {'E'} end
local g = h[2] or '-'
local v = redis.call('GET', KEYS[2])
if v then
  local p = 'V' .. ARGV[1] .. '|'
  if string.sub(v, 1, #p) == p then
    local a = string.find(v, '|', #p + 1, true)
    local b = a and string.find(v, '|', a + 1, true)
    if b and string.sub(v, a + 1, b - 1) == g then return {'V', v, redis.call('PTTL', KEYS[2])} end
  elseif string.sub(v, 1, 1) == 'L' then
    return {'B'}
  end
end
redis.call('SET', KEYS[2], 'L' .. ARGV[3], 'PX', ARGV[4])
return {'L', g}
"""

#: KEYS header, value · ARGV epoch, generation field, generation, expect, entry, px -> 1 stored, 0 not
FILL = b"""
local h = redis.call('HMGET', KEYS[1], 'e', ARGV[2])
if h[1] ~= ARGV[1] or (h[2] or '-') ~= ARGV[3] then return 0 end
local v = redis.call('GET', KEYS[2])
if not v then return 0 end
local px = tonumber(ARGV[6])
if string.sub(ARGV[4], 1, 1) == 'L' then
  if v ~= ARGV[4] then return 0 end
else
  if string.sub(v, 1, #ARGV[4]) ~= ARGV[4] then return 0 end
  local left = redis.call('PTTL', KEYS[2])
  if left > 0 and left < px then px = left end
end
local f = redis.call('HINCRBY', KEYS[1], 'f', 1)
redis.call('SET', KEYS[2], 'V' .. ARGV[1] .. '|' .. f .. '|' .. ARGV[3] .. '|' .. ARGV[5], 'PX', px)
return 1
"""

#: KEYS header, values · ARGV generation fields -> {values, pttls, {epoch, generations}}
MANY = b"""
local t = {}
local v = {}
for i = 2, #KEYS do
  v[i - 1] = redis.call('GET', KEYS[i])
  t[i - 1] = v[i - 1] and redis.call('PTTL', KEYS[i]) or 0
end
return {v, t, redis.call('HMGET', KEYS[1], 'e', unpack(ARGV))}
"""

ALL = (OPEN, LEASE, FILL, MANY)


def sha(script: bytes) -> bytes:
    return hashlib.sha1(script).hexdigest().encode()


OPEN_SHA, LEASE_SHA, FILL_SHA, MANY_SHA = map(sha, ALL)
