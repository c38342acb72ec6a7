package handlers_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"
	eventbridgetypes "github.com/aws/aws-sdk-go-v2/service/eventbridge/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
)

// survived is what the seeds of a run have gone through.
type survived struct {
	seeds, calls, kills, stops, freezes, faults, jumps atomic.Int64
	mu                                                 sync.Mutex
	longest                                            time.Duration
	of                                                 uint64
}

func (s *survived) String() string {
	return fmt.Sprintf("%d seeds survived: %d harmful calls, %d kills, %d stops, %d freezes beyond the lease, %d failed requests, %d jumps of clocks; at the latest everything was repaired and told %s after the last fault (seed %d)",
		s.seeds.Load(), s.calls.Load(), s.kills.Load(), s.stops.Load(), s.freezes.Load(), s.faults.Load(), s.jumps.Load(), s.longest, s.of)
}

// TestChaos plays harmful calls against a fleet of three workers, with alerts grouped, to
// which everything happens that can happen. When nothing goes wrong any more, within a
// bounded time every key is as it was and every call is told.
//
// CMKEEPER_CHAOS_SEEDS is how many seeds are played (4), CMKEEPER_CHAOS_FROM the first one
// (1); "make soak" sets both. A single one, whatever its number, is played by
//
//	go test ./handlers -run 'TestChaos/seed=123$'
func TestChaos(t *testing.T) {
	first, count := chaosSetting(t, "CMKEEPER_CHAOS_FROM", 1), chaosSetting(t, "CMKEEPER_CHAOS_SEEDS", 4)
	if one := regexp.MustCompile(`seed=(\d+)`).FindStringSubmatch(flag.Lookup("test.run").Value.String()); one != nil {
		first, count = must(strconv.ParseUint(one[1], 10, 64)), 1
	}
	all := new(survived)
	t.Cleanup(func() { fmt.Println(all) })
	for seed := first; seed < first+count; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			playChaos(t, drawScenario(seed), all)
		})
	}
}

func chaosSetting(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	if value := os.Getenv(name); value != "" {
		return must(strconv.ParseUint(value, 10, 64))
	}
	return otherwise
}

// scenario is what a seed decides.
type scenario struct {
	seed uint64
	// The account.
	keys  int
	calls int
	// believed: messages are taken for records of CloudTrail.
	believed bool
	// late is how long CloudTrail takes to show a call to who asks.
	late time.Duration
	// The fleet.
	slots  int
	deaths int
	skew   time.Duration // of clocks
	// weather is how long requests fail.
	weather time.Duration
}

func drawScenario(seed uint64) scenario {
	r := rand.New(rand.NewPCG(seed, 1))
	s := scenario{
		seed: seed, keys: 2 + r.IntN(6), calls: 5 + r.IntN(25), believed: r.IntN(2) == 0, late: time.Duration(r.IntN(600)) * time.Second,
		slots: 2 + r.IntN(15), deaths: r.IntN(10), weather: time.Duration(60+r.IntN(540)) * time.Second,
	}
	if r.IntN(2) == 0 {
		s.skew = []time.Duration{10 * time.Second, time.Minute, 10 * time.Minute}[r.IntN(3)]
	}
	return s
}

const (
	// freeze is how long a worker stands still: longer than its lease.
	freeze = 45 * time.Second
	// tickEvery is how often the schedule asks for a sweep.
	tickEvery = 10 * time.Minute
	// patience is within which time after the last fault everything is repaired and told.
	patience = 30 * time.Minute
)

// playChaos plays a scenario.
func playChaos(t *testing.T, s scenario, all *survived) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%+v\nreplay with: go test ./handlers -run 'TestChaos/seed=%d$'", s, s.seed)
		}
	})
	c := enforcePolicies()
	c.FlapLimit = ledger.MaxFlapLimit // the circuit breaker is another matter
	inStormOf(t, c, func(st *storm) {
		st.open = !s.believed
		f := &fleet{storm: st, scenario: s, survived: all, random: &dice{r: rand.New(rand.NewPCG(s.seed, 2))}}
		keys := f.prepare()
		archive := f.archive()
		st.aws.Trail().Set(trail.Settings{Jitter: 20 * time.Second, Duplicates: 0.1, LookupDelay: s.late, Seed: s.seed})

		ctx, end := context.WithCancel(st.ctx)
		calm, cancel := context.WithTimeout(ctx, s.weather)
		defer cancel()
		f.calm = calm
		f.kills.Store(int64(s.deaths))
		var background sync.WaitGroup
		background.Go(func() { f.gusts(calm) })
		background.Go(func() { f.schedule(ctx) })
		for range 3 {
			background.Go(func() { f.member(ctx) })
		}
		f.harm(calm, keys)
		<-calm.Done()
		over := time.Now()
		judge := &judgeOfChaos{fleet: f, keys: keys, archive: archive}
		for time.Since(over) < patience && judge.left() != "" {
			time.Sleep(10 * time.Second)
		}
		took := time.Since(over)
		if left := judge.left(); left != "" {
			t.Errorf("%s after the last fault: %s", took, left)
			judge.explain(left)
		}
		end()
		background.Wait()
		time.Sleep(time.Hour) // handlers that were abandoned end
		all.note(s.seed, took)
	})
}

func (s *survived) note(seed uint64, took time.Duration) {
	s.seeds.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if took > s.longest {
		s.longest, s.of = took, seed
	}
}

// prepare makes the keys, which a worker has seen as they are good.
func (f *fleet) prepare() (keys []string) {
	for i := range f.keys {
		key := f.newKey(kms.CreateKeyInput{})
		must(f.kms.CreateAlias(f.ctx, &kms.CreateAliasInput{AliasName: aws.String(fmt.Sprintf("alias/key-%d", i)), TargetKeyId: &key}))
		f.enableRotation(key, 180)
		f.putPolicy(key, rootOnly)
		keys = append(keys, key)
	}
	f.react()
	f.sweep()
	time.Sleep(time.Minute)
	f.sweep()
	f.told.take()
	return keys
}

// archive has each event arrive in a second queue, too.
func (f *fleet) archive() (url string) {
	url = *must(f.sqs.CreateQueue(f.ctx, &sqs.CreateQueueInput{QueueName: aws.String("archive"), Attributes: map[string]string{
		"Policy": `{"Statement":[{"Effect":"Allow","Principal":{"Service":"events.amazonaws.com"},"Action":"sqs:SendMessage","Resource":"*"}]}`,
	}})).QueueUrl
	bus := eventbridge.NewFromConfig(inprocess.Config(f.aws, region, "mallory"))
	must(bus.PutTargets(f.ctx, &eventbridge.PutTargetsInput{Rule: aws.String("kms"), Targets: []eventbridgetypes.Target{
		{Id: aws.String("2"), Arn: aws.String("arn:aws:sqs:" + region + ":" + account + ":archive")},
	}}))
	f.events() // about that
	return url
}

// schedule asks for sweeps.
func (f *fleet) schedule(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		_, _ = f.sqs.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: &f.queue, MessageBody: aws.String(tick(n))})
		pause(ctx, tickEvery)
	}
}

// harm makes the calls: each by somebody on some key, where it is as it should be, and a
// few times at most.
func (f *fleet) harm(ctx context.Context, keys []string) {
	r := f.random.fork()
	actors := []*kms.Client{f.as("alice"), f.as("bob"), f.as("carol")}
	done := map[string]int{}
	for range f.calls {
		pause(ctx, time.Duration(r.Int64N(int64(2*f.weather)/int64(f.calls))))
		if ctx.Err() != nil {
			return
		}
		key, who, what := keys[r.IntN(len(keys))], actors[r.IntN(len(actors))], r.IntN(5)
		most := 3
		if what == 1 { // a policy is restored once, unless it is known that another actor set it
			most = 1
		}
		each := fmt.Sprint(key, what)
		if done[each] == most || f.wrong(key) != "" {
			continue
		}
		done[each]++
		switch what {
		case 0:
			must(who.DisableKeyRotation(f.ctx, &kms.DisableKeyRotationInput{KeyId: &key}))
		case 1:
			must(who.PutKeyPolicy(f.ctx, &kms.PutKeyPolicyInput{KeyId: &key, Policy: aws.String(takeover)}))
		case 2:
			must(who.DisableKey(f.ctx, &kms.DisableKeyInput{KeyId: &key}))
		case 3:
			must(who.ScheduleKeyDeletion(f.ctx, &kms.ScheduleKeyDeletionInput{KeyId: &key}))
		case 4:
			must(who.CreateGrant(f.ctx, &kms.CreateGrantInput{KeyId: &key, GranteePrincipal: aws.String("arn:aws:iam::" + stranger + ":role/visitor"), Operations: []types.GrantOperation{types.GrantOperationDecrypt}}))
		}
		f.survived.calls.Add(1)
	}
}

// wrong says what is not as it should be about a key, "" for nothing.
func (f *fleet) wrong(key string) string {
	if state := f.state(key); state != "Enabled" {
		return "it is " + state
	}
	if days := f.rotation(key); days != 180 {
		return fmt.Sprintf("its rotation period is %d", days)
	}
	if policy := f.livePolicy(key); policy != rootOnly {
		return "its policy is another one"
	}
	return ""
}

// judgeOfChaos looks at what has become of everything.
type judgeOfChaos struct {
	*fleet
	keys    []string
	archive string
	calls   []harmful
	alerts  []told
}

// harmful is a call as its record shows it.
type harmful struct {
	id, name, key string
	at            time.Time
}

// kindOf is the kind of the alerts about harmful calls.
var kindOf = map[string]alert.Kind{
	"DisableKeyRotation": alert.KindRotation, "PutKeyPolicy": alert.KindPolicy, "DisableKey": alert.KindDeletion, "ScheduleKeyDeletion": alert.KindDeletion, "CreateGrant": alert.KindGrant,
}

// left says what is still to be done, "" for nothing.
func (j *judgeOfChaos) left() string {
	var left []string
	for _, key := range j.keys {
		if what := j.wrong(key); what != "" {
			left = append(left, fmt.Sprintf("key %s: %s", key, what))
		}
	}
	j.calls = append(j.calls, j.records()...)
	j.alerts = append(j.alerts, j.arrived()...)
	rows := j.rows()
	for _, c := range j.calls {
		if !c.told(rows, j.calls) {
			left = append(left, fmt.Sprintf("%s on %s at %s (event %s) is not told", c.name, c.key, c.at.Format(time.TimeOnly), c.id))
		}
	}
	for _, prefix := range []string{"groups/due/", "alerts/undelivered/"} {
		out := must(j.s3.ListObjectsV2(j.ctx, &s3.ListObjectsV2Input{Bucket: aws.String(stateBucket), Prefix: aws.String("cmkeeper/" + prefix)}))
		if n := len(out.Contents); n > 0 {
			left = append(left, fmt.Sprintf("%d documents are below %s", n, prefix))
		}
	}
	if n := j.leftIn("events-dlq"); n > 0 {
		left = append(left, fmt.Sprintf("%d messages are in the dead-letter queue", n))
	}
	return strings.Join(left, "\n")
}

// explain logs everything about the keys that something is left to do about.
func (j *judgeOfChaos) explain(left string) {
	for _, key := range j.keys {
		if !strings.Contains(left, key) {
			continue
		}
		var all []string
		for _, c := range j.calls {
			if c.key == key {
				all = append(all, fmt.Sprintf("%s called %s (event %s)", c.at.Format(time.TimeOnly), c.name, c.id))
			}
		}
		for _, h := range j.history {
			if strings.Contains(h, key) {
				all = append(all, h)
			}
		}
		for _, a := range j.alerts {
			if a.Key != nil && a.Key.ARN == key {
				all = append(all, fmt.Sprintf("%s told %s, %s: %s", a.at.Format(time.TimeOnly), a.ID, a.Action.Status, a.Title))
			}
			if a.Digest != nil {
				for _, c := range a.Digest.Calls {
					if c.Key == key {
						all = append(all, fmt.Sprintf("%s told in a digest %s, %s: %s", a.at.Format(time.TimeOnly), c.ID, c.Status, c.Title))
					}
				}
			}
		}
		slices.Sort(all)
		for _, name := range []string{ledger.KeyName(key), ledger.BaselineName(key)} {
			out := must(j.s3.GetObject(j.ctx, &s3.GetObjectInput{Bucket: aws.String(stateBucket), Key: aws.String("cmkeeper/" + name)}))
			all = append(all, string(must(io.ReadAll(out.Body))))
		}
		j.t.Logf("key %s:\n%s", key, strings.Join(all, "\n"))
	}
	var groups []string
	pages := s3.NewListObjectsV2Paginator(j.s3, &s3.ListObjectsV2Input{Bucket: aws.String(stateBucket), Prefix: aws.String("cmkeeper/groups/")})
	for pages.HasMorePages() {
		for _, o := range must(pages.NextPage(j.ctx)).Contents {
			out := must(j.s3.GetObject(j.ctx, &s3.GetObjectInput{Bucket: aws.String(stateBucket), Key: o.Key}))
			body := string(must(io.ReadAll(out.Body)))
			groups = append(groups, fmt.Sprintf("%s %s %s", o.LastModified.Format(time.TimeOnly), *o.Key, body[:min(len(body), 420)]))
		}
	}
	j.t.Logf("groups:\n%s", strings.Join(groups, "\n"))
}

func (j *judgeOfChaos) leftIn(queue string) int {
	url := must(j.sqs.GetQueueUrl(j.ctx, &sqs.GetQueueUrlInput{QueueName: &queue})).QueueUrl
	out := must(j.sqs.GetQueueAttributes(j.ctx, &sqs.GetQueueAttributesInput{QueueUrl: url, AttributeNames: []sqstypes.QueueAttributeName{"All"}}))
	return must(strconv.Atoi(out.Attributes["ApproximateNumberOfMessages"]))
}

// records are the harmful calls that were recorded since it was last called.
func (j *judgeOfChaos) records() (calls []harmful) {
	for {
		out := must(j.sqs.ReceiveMessage(j.ctx, &sqs.ReceiveMessageInput{QueueUrl: &j.archive, MaxNumberOfMessages: 10}))
		if len(out.Messages) == 0 {
			return calls
		}
		for _, m := range out.Messages {
			must(j.sqs.DeleteMessage(j.ctx, &sqs.DeleteMessageInput{QueueUrl: &j.archive, ReceiptHandle: m.ReceiptHandle}))
			var e struct {
				Detail struct {
					EventID, EventName, ErrorCode string
					EventTime                     time.Time
					UserIdentity                  struct{ Arn string }
					Resources                     []struct{ ARN string }
				}
			}
			if err := json.Unmarshal([]byte(*m.Body), &e); err != nil {
				j.t.Fatal(err)
			}
			d := e.Detail
			if kindOf[d.EventName] == "" || d.ErrorCode != "" || strings.Contains(d.UserIdentity.Arn, "assumed-role/cmkeeper/") || len(d.Resources) == 0 {
				continue
			}
			calls = append(calls, harmful{d.EventID, d.EventName, d.Resources[0].ARN, d.EventTime})
		}
	}
}

// row is an alert, or a row of one, as far as it says what is told.
type row struct {
	alert.Call
	event string // the event's id, where that is known
	at    time.Time
}

func (j *judgeOfChaos) rows() (rows []row) {
	for _, a := range j.alerts {
		if a.Digest != nil {
			for _, c := range a.Digest.Calls {
				rows = append(rows, row{c, "", a.at})
			}
			continue
		}
		if a.Key != nil {
			rows = append(rows, row{alert.Call{ID: a.ID, Kind: a.Kind, EventName: a.EventName, Key: a.Key.ARN, Status: a.Action.Status}, a.EventID, a.at})
		}
	}
	return rows
}

// told reports whether a call is told: by an alert of its own, or where a sweep found what
// it did, by one of the sweep's. While rotation is off, the alerts about further calls that
// turn it off have the first one's id, so there have to be as many as there were calls.
func (h harmful) told(rows []row, calls []harmful) bool {
	ids, others := map[string]bool{}, map[string]bool{}
	for _, r := range rows {
		switch {
		case strings.HasPrefix(r.ID, h.id), r.event == h.id:
			return true
		case r.Kind != kindOf[h.name] || r.Key != h.key || h.name == "CreateGrant":
		case r.EventName == "Sweep" && !r.at.Before(h.at):
			return true
		case h.name == "DisableKeyRotation" && r.Status != alert.StatusFailed:
			ids[r.ID] = true
		}
	}
	for _, c := range calls {
		if c.name == h.name && c.key == h.key {
			others[c.id] = true
		}
	}
	return len(ids) > 0 && len(ids) >= len(others)
}
