package handlers_test

import (
	"context"
	"fmt"
	"maps"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/state"
)

// manyKeys makes so many keys.
func (s *storm) manyKeys(n int) (all []string) {
	s.t.Helper()
	for range n {
		all = append(all, s.newKey(kms.CreateKeyInput{}))
	}
	s.events()
	return all
}

// records are those of all sweeps, in the order of time.
func (w *world) records() (all []ledger.SweepRecord) {
	w.t.Helper()
	for r, err := range state.Documents[ledger.SweepRecord](w.ctx, w.store(), ledger.SweepRecords) {
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// sweepsOf asks for a sweep and waits for its record.
func (s *storm) sweepNow(n int) ledger.SweepRecord {
	s.t.Helper()
	before := len(s.records())
	s.send(tick(n))
	for range 3600 {
		if all := s.records(); len(all) > before {
			return all[len(all)-1]
		}
		time.Sleep(time.Second)
	}
	s.t.Fatal("no sweep was made within an hour")
	return ledger.SweepRecord{}
}

// meter counts the requests of workers.
type meter struct {
	mu     sync.Mutex
	counts map[string]int           // "kms.DescribeKey", and "state.GetObject" of the state bucket
	kms    map[string]map[int64]int // by operation and second
}

func (s *storm) measure() (m *meter, stop func()) {
	m = &meter{counts: map[string]int{}, kms: map[string]map[int64]int{}}
	return m, s.aws.Observe(func(r localaws.Request) {
		if r.Caller.AccessKeyID != keeperKey {
			return
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		service := r.Service
		if service == "s3" && strings.HasPrefix(r.Path, "/"+stateBucket) {
			service = "state"
		}
		m.counts[service+"."+r.Operation]++
		if service == "kms" {
			if m.kms[r.Operation] == nil {
				m.kms[r.Operation] = map[int64]int{}
			}
			m.kms[r.Operation][time.Now().Unix()]++
		}
	})
}

// take returns the counts since the last call.
func (m *meter) take() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	taken := m.counts
	m.counts = map[string]int{}
	return taken
}

func sum(counts map[string]int, prefix string) (n int) {
	for name, c := range counts {
		if strings.HasPrefix(name, prefix) {
			n += c
		}
	}
	return n
}

// perKey are the requests to KMS that are about one key.
func perKey(counts map[string]int) int {
	return sum(counts, "kms.") - counts["kms.ListKeys"] - counts["kms.ListAliases"] - counts["kms.DescribeCustomKeyStores"]
}

// wantWithin fails the test where an operation of KMS was called more often in a second
// than the share of its quota.
func (m *meter) wantWithin(t *testing.T, share float64) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, operation := range slices.Sorted(maps.Keys(m.kms)) {
		most := 0
		for _, n := range m.kms[operation] {
			most = max(most, n)
		}
		allowed := int(math.Max(1, inventory.Quotas[operation]*share))
		t.Logf("%s: at most %d in a second, of %d", operation, most, allowed)
		if most > allowed {
			t.Errorf("%d requests of %s in a second, and the share is %d", most, operation, allowed)
		}
	}
}

// sharedQuotas are KMS's quotas cut to the share of the sweeps, with as much saved up as
// comes in a second: whoever exceeds it is throttled.
func sharedQuotas(share float64) (faults []localaws.Fault) {
	for operation, quota := range inventory.Quotas {
		faults = append(faults, localaws.Fault{Caller: keeperKey, Service: "kms", Operations: []string{operation}, Effect: localaws.Throttle, Rate: quota * share})
	}
	return faults
}

// A sweep of many keys is cut into shards, which the fleet works on; what KMS is asked
// never exceeds the share, and keys of which nothing has changed cost nearly nothing. With
// CMKEEPER_SOAK=1 there are 100,000 of them.
func TestFleetSweepsInShards(t *testing.T) {
	const share = 0.1
	n, sweeps, c := 250, 3, enforceAll()
	c.SweepShard = 50
	if soak := os.Getenv("CMKEEPER_SOAK"); soak != "" {
		n, sweeps, c.SweepShard = 100_000, 8, ledger.ShardKeys // reading grants and tags for the first time takes four hours
		if few, err := strconv.Atoi(soak); err == nil && few > 1 {
			n = few
		}
	}
	inStormOf(t, c, func(s *storm) {
		s.manyKeys(n)
		for b := range 9 { // and the state bucket
			s.bucket(fmt.Sprintf("data-%d", b), "")
		}
		s.aws.SetFaults(append(latencies(), sharedQuotas(share)...)...)
		ctx, stop := context.WithCancel(s.ctx)
		m, unmeasure := s.measure()
		defer unmeasure()
		for i := range sweeps {
			if i == 0 {
				for range 3 {
					s.startWith(ctx, defaultSlots)
				}
			}
			began := time.Now()
			r := s.sweepNow(i)
			counts := m.take()
			t.Logf("sweep %d: %d shards, %ds, %d keys, %d changed, %d not rolled, oldest grants and tags %d s; %.2f KMS requests and %.4f state requests a key; %s",
				i, r.Shards, r.Seconds, r.Totals.Keys, r.Totals.Changed, r.Totals.NotRolled, r.Totals.RolledAge,
				float64(sum(counts, "kms."))/float64(n), float64(sum(counts, "state."))/float64(n), fmt.Sprint(counts))
			if r.Totals.Keys != n || !r.Whole || r.Totals.Errors > 0 || r.Totals.Unread > 0 || r.Shards != ledger.Shards(n, c.SweepShard) {
				t.Errorf("sweep %d: %+v", i, r)
			}
			if r.Seconds > 30*60 {
				t.Errorf("sweep %d took %d seconds", i, r.Seconds)
			}
			time.Sleep(time.Hour - time.Since(began))
			hour := m.take()
			t.Logf("the rest of the hour: %s", fmt.Sprint(hour))
			if i == sweeps-1 {
				all := sum(counts, "state.") + sum(hour, "state.")
				if few := n < ledger.ShardKeys; !few && float64(all)/float64(n) > 0.02 || few && all > 100+12*r.Shards {
					t.Errorf("%d requests to the state bucket for %d keys, want 0.02 for each", all, n)
				}
				if each := float64(perKey(counts)+perKey(hour)) / float64(n); each > 5 {
					t.Errorf("%.2f requests to KMS for each key, want 5", each)
				}
				// A document of each is read as well.
				if reads := sum(counts, "s3.GetBucket") + sum(counts, "state.GetBucket") + counts["s3.HeadBucket"]; reads > 3*10 {
					t.Errorf("%d reads of 10 buckets", reads)
				}
				if r.Totals.Changed > n/100 {
					t.Errorf("%d keys were judged again, and none has changed", r.Totals.Changed)
				}
				if r.Totals.NotRolled > 0 || r.Totals.RolledAge > 4*60*60 {
					t.Errorf("grants and tags of %d keys were never read, the others' %d seconds ago", r.Totals.NotRolled, r.Totals.RolledAge)
				}
			}
		}
		m.wantWithin(t, share)
		stop()
		s.wg.Wait()
		for _, a := range s.arrived() {
			t.Errorf("alert:\n%s", a.Text())
		}
		var memory runtime.MemStats
		runtime.ReadMemStats(&memory)
		t.Logf("heap in use, with the AWS in process: %d MiB", memory.HeapInuse>>20)
	})
}
