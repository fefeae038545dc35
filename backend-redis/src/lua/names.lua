-- Names and numbers that all scripts share; in a script their values stand in their places (see script/fold.rs). A queue's keys come
-- in this order in KEYS, always all of them, so that no script makes a key's name and every key is declared.
local K = { META = KEYS[1], SPEC = KEYS[2], RUN = KEYS[3], NOTES = KEYS[4],
  LINE = KEYS[5], SOLO_LINE = KEYS[6], SHELVES = KEYS[7], KINDS = KEYS[8],
  DELAYED_SET = KEYS[9], BLOCKED_SET = KEYS[10], ACTIVE_SET = KEYS[11], COMPLETED_SET = KEYS[12],
  FAILED_SET = KEYS[13], CANCELLED_SET = KEYS[14], DEDUP = KEYS[15], HOLDS = KEYS[16],
  EVENTS = KEYS[17], WAKE = KEYS[18], OUTBOX = KEYS[19], LEDGER = KEYS[20],
  LANES = KEYS[21], RING = KEYS[22], ASIDE = KEYS[23], HELD = KEYS[24],
  PARKED = KEYS[25], USAGE = KEYS[26], FADES = KEYS[27], POLICIES = KEYS[28],
  BATCHES = KEYS[29], FAILING = KEYS[30],
  ANSWERS = KEYS[31] }

-- The version of this layout. A queue of another one is not touched.
local LAYOUT = '1'

local WAITING, DELAYED, BLOCKED, ACTIVE, COMPLETED, FAILED, CANCELLED = 0, 1, 2, 3, 4, 5, 6
local LANE, SOLO, SHELF = 0, 1, 2

-- Event kinds, as ferroq_core::event numbers them.
local E = { ENQUEUED = 0, PROMOTED = 1, STARTED = 2, COMPLETED = 3, RETRYING = 4, SNOOZED = 5, RELEASED = 6, FAILED = 7,
  STALLED = 8, CANCELLED = 9, CANCEL_REQUESTED = 10, RETRIED = 11, RESCHEDULED = 12, REMOVED = 13, SHELVED = 14,
  PROGRESS = 15, PAUSED = 16, RESUMED = 17, STEPPED_BACK = 18, EXTENDED = 19 }

-- Why a job is Failed, and the kinds of error entries that a script writes by itself.
local F = { ATTEMPTS = 1, CRASHES = 2, ABORTED = 3, EXPIRED = 4, QUARANTINED = 5, WITH_BATCH = 6 }
local X = { CRASH = 5, EXPIRED = 6, QUARANTINE = 7 }

-- For how long a job holds its dedup key.
local M = { UNTIL_FINISHED = 0, FOR = 1, WHILE_KEPT = 2, DEBOUNCE = 3, KEEP_LATEST = 4, COALESCE = 5 }

-- A job's traits: which of the parts after its kind it has.
local T = { DEDUP = 1, KEEP = 2, BUDGETS = 4, EXPIRES = 8, LANE = 16, TAGS = 32, REST = 64, PLACE = 128 }

-- A job's notes: a field each, named by the job's id and a letter; the numbers make up the mask.
local N = { ERRORS = 1, PROGRESS = 2, CHECKPOINT = 4, RESULT = 8, LOG = 16 }

-- What errors say that a script writes by itself.
local UNREADABLE, EXPIRED = 'the stored job can\'t be read', 'older than expires_in when its turn came'


-- Marks on an entry in `run`, and how long one is without the worker's name.
local FLAG_CANCEL, FLAG_WAITED_ON, FLAG_COALESCED, FLAG_BATCH = 1, 2, 4, 8
local ENTRY_MIN = 74
-- How long a spec is at least.
local HEAD_MIN = 34

-- Ways out of a live state, by which a job gives back its dedup key or keeps it.
local EXIT = { STARTED = 0, ENDED = 1, CANCELLED = 2, REMOVED_LIVE = 3, REMOVED_ENDED = 4 }

-- How a run ended.
local O = { COMPLETED = 0, RESULT = 1, RETRY = 2, ABORT = 3, SNOOZE = 4, RELEASE = 5, CANCELLED = 6 }

-- No instant, the last one there is, and the answer to when to look again if there is nothing to look for.
local NONE8 = '\0\0\0\0\0\0\0\0'
local MAX8 = '\127\255\255\255\255\255\255\255'
local LOOK_NONE = '\255\255\255\255\255\255\255\255'
-- Beyond this a double skips numbers. It is the year 2255, so a later instant is taken to be never.
local EXACT_MAX = 9007199254740992
local SEQ_BIAS = 4503599627370496
-- A clock that lags by less than this did not step back.
local LAG_MAX = 60000000
-- So many arguments fit on Lua's stack with room to spare.
local ARGS_MAX = 4000

-- Specs carry payloads, so no more than these are held at a time.
local READ_MAX = 100
local PROMOTE_ITEMS_MAX, GATHER_ITEMS_MAX = 1000, 1000
local WAITED_ON_KEEP = 60000000
local SESSION_IDLE_MS = 600000
