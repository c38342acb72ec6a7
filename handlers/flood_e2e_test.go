package handlers_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
)

// forgedCall is a record that was never CloudTrail's: the call of a role on a key, n of its
// kind.
func forgedCall(name, key, role string, n int) string {
	body := apiCall(name, `"readOnly":false`)
	now := time.Now().UTC().Format(time.RFC3339)
	return strings.NewReplacer(
		"arn:aws:kms:"+region+":"+account+":key/0d2a6c1e-93c1-4e7a-a0b5-7f52c3a1e9d4", key,
		"2026-03-01T12:00:00Z", now,
		"role/build", "role/"+role, "assumed-role/build/build", "assumed-role/"+role+"/"+role, `"userName":"build"`, `"userName":"`+role+`"`,
		"5c7e9a1b-aaaa-bbbb-cccc-444455556666", fmt.Sprintf("5c7e9a1b-aaaa-bbbb-cccc-%012d", n),
		"9b2d4f60-aaaa-bbbb-cccc-111122223333", fmt.Sprintf("9b2d4f60-aaaa-bbbb-cccc-%012d", n),
	).Replace(body)
}

// tick is a message of the schedule.
func tick(n int) string {
	return fmt.Sprintf(`{"version":"0","id":"tick-%d","detail-type":"Scheduled Event","source":"aws.events","account":"%s","time":"%s","region":"%s","resources":[],"detail":{}}`,
		n, account, time.Now().UTC().Format(time.RFC3339), region)
}

// send puts messages into the events queue.
func (s *storm) send(bodies ...string) {
	s.t.Helper()
	for some := range slices.Chunk(bodies, 10) {
		var entries []sqstypes.SendMessageBatchRequestEntry
		for i, body := range some {
			entries = append(entries, sqstypes.SendMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), MessageBody: &body})
		}
		must(s.sqs.SendMessageBatch(s.ctx, &sqs.SendMessageBatchInput{QueueUrl: &s.queue, Entries: entries}))
	}
}

// left is how many messages the events queue has, whether anybody has them or not.
func (s *storm) left() (n int) {
	s.t.Helper()
	out := must(s.sqs.GetQueueAttributes(s.ctx, &sqs.GetQueueAttributesInput{QueueUrl: &s.queue, AttributeNames: []sqstypes.QueueAttributeName{"All"}}))
	for _, name := range []string{"ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed"} {
		n += must(strconv.Atoi(out.Attributes[name]))
	}
	return n
}

// flooded is what a flood came to.
type flooded struct {
	// told is how long after a real call, which somebody else made when the flood was in
	// the queue, people were told of it.
	told time.Duration
	// drained is when the queue was empty.
	drained time.Duration
	// messages are those that people got, the one about the real call included.
	messages []told
	// requests are those of the workers and of the real call, by operation ("s3.PutObject").
	requests map[string]int
}

// flood puts messages into the queue, has somebody else let a foreign account decrypt with
// the victim's key, and waits until the queue is empty.
func (s *storm) flood(victim string, messages []string) (f flooded) {
	s.t.Helper()
	var mu sync.Mutex
	f.requests = map[string]int{}
	uncount := s.aws.Observe(func(r localaws.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Caller.AccessKeyID == keeperKey {
			f.requests[r.Service+"."+r.Operation]++
		}
	})
	s.send(messages...)
	s.intrude(victim)
	for began := time.Now(); s.left() > 0; time.Sleep(100 * time.Millisecond) {
		if f.drained = time.Since(began); f.drained > time.Hour {
			s.t.Fatalf("%d messages left after an hour", s.left())
		}
		f.messages = append(f.messages, s.arrived()...)
		if _, real := apart(f.messages, victim); len(real) > 0 {
			f.told = real[0].at.Sub(began)
		}
	}
	uncount()
	f.messages = append(f.messages, s.arrived()...)
	var all []string
	for _, operation := range slices.Sorted(maps.Keys(f.requests)) {
		all = append(all, fmt.Sprintf("%d %s", f.requests[operation], operation))
	}
	s.t.Logf("told after %s, queue empty after %s; %d messages to people; requests: %s", f.told, f.drained, len(f.messages), strings.Join(all, ", "))
	if f.told == 0 || f.told > 5*time.Second {
		s.t.Errorf("people were told of the real call after %s, want 5s", f.told)
	}
	return f
}

// intrude has somebody else let a foreign account pass the use of a key on.
func (s *storm) intrude(key string) {
	s.t.Helper()
	must(s.as("intruder").CreateGrant(s.ctx, &kms.CreateGrantInput{
		KeyId: &key, GranteePrincipal: aws.String("arn:aws:iam::" + stranger + ":role/visitor"), Operations: []types.GrantOperation{types.GrantOperationDecrypt, types.GrantOperationCreateGrant},
	}))
}

// apart returns the alerts about what intrude did to the key apart from the others.
func apart(all []told, key string) (others, real []told) {
	for _, a := range all {
		if a.Key != nil && a.Key.ARN == key && a.EventName == "CreateGrant" && a.Severity == finding.Critical {
			real = append(real, a)
		} else {
			others = append(others, a)
		}
	}
	return others, real
}

// inFlood runs a test in an account with 60 keys, of which one is the victim, and two
// workers, to which AWS's quotas apply.
func inFlood(t *testing.T, slots int, test func(s *storm, victim string), options ...func(*storm)) {
	t.Helper()
	c := enforceAll()
	c.Policy = reaction.Enforce
	inStormOf(t, c, func(s *storm) {
		ctx, stop := context.WithCancel(s.ctx)
		for range 60 {
			s.newKey(kms.CreateKeyInput{})
		}
		victim := s.knownAlias("alias/orders")
		for _, set := range options {
			set(s)
		}
		for range 2 {
			s.startWith(ctx, slots)
		}
		time.Sleep(2 * time.Minute)
		s.arrived()
		limits := localaws.KMSQuotas()
		for i := range limits {
			limits[i].Caller = keeperKey
		}
		s.aws.SetFaults(append(latencies(), limits...)...)
		test(s, victim)
		stop()
		s.wg.Wait()
	})
}

// soaking returns how many messages a flood has with CMKEEPER_SOAK, which "make soak" sets,
// and without.
func soaking(many, few int) int {
	if os.Getenv("CMKEEPER_SOAK") != "" {
		return many
	}
	return few
}

// defaultSlots is CMKEEPER_EVENTS_CONCURRENCY where it is not set.
const defaultSlots = 40

// TestFloodOfTicks: each message of the schedule used to sweep the whole account, and the
// fleet had time for nothing else.
func TestFloodOfTicks(t *testing.T) {
	inFlood(t, defaultSlots, func(s *storm, victim string) {
		var ticks []string
		for n := range 400 {
			ticks = append(ticks, tick(n))
		}
		f := s.flood(victim, ticks)
		if n := f.requests["kms.ListKeys"]; n < 1 || n > 2 {
			t.Errorf("%d sweeps", n)
		}
		if f.drained > 15*time.Minute {
			t.Errorf("the messages are done after %s", f.drained)
		}
	})
}

// TestFloodOfOneKey: the workers used to refuse each other the key's document, and other
// events waited. Each of these events is noted in it, and told.
func TestFloodOfOneKey(t *testing.T) {
	events := soaking(1500, 250)
	inFlood(t, 64, func(s *storm, victim string) {
		key := s.knownAlias("alias/flooded")
		time.Sleep(time.Minute)
		var bodies []string
		for n := range events {
			bodies = append(bodies, forgedCall("RotateKeyOnDemand", key, "flooder", n))
		}
		f := s.flood(victim, bodies)
		// An alert that is collected takes three writes, and the key's document one.
		if puts := f.requests["s3.PutObject"]; puts > 5*events {
			t.Errorf("%d writes for %d events", puts, events)
		}
		if gets := f.requests["s3.GetObject"]; gets > 6*events {
			t.Errorf("%d reads of documents for %d events", gets, events)
		}
		told := 0
		for _, a := range f.messages {
			told++
			if a.Digest != nil {
				told += max(a.Digest.All, len(a.Digest.Calls)) - 1
			}
		}
		if told != events-2+1 { // two rotations on demand are not many
			t.Errorf("people were told of %d calls", told)
		}
	})
}

// TestFloodOfTheSameKey: the real call is on the key that is flooded, by another actor.
func TestFloodOfTheSameKey(t *testing.T) {
	inFlood(t, defaultSlots, func(s *storm, victim string) {
		var bodies []string
		for n := range soaking(600, 250) {
			bodies = append(bodies, forgedCall("RotateKeyOnDemand", victim, "flooder", n))
		}
		s.flood(victim, bodies)
	})
}

// TestFloodOfForgedEvents: anybody may send to the queue. Half of the keys do not exist,
// and the actors are as many as there are events, a few, or one.
func TestFloodOfForgedEvents(t *testing.T) {
	events := soaking(2000, 350) // the workers need minutes for them
	for _, actors := range []int{2000, 20, 1} {
		t.Run(fmt.Sprintf("by %d actors", actors), func(t *testing.T) {
			if actors != 20 && os.Getenv("CMKEEPER_SOAK") == "" {
				t.Skip("CMKEEPER_SOAK is not set: it takes long")
			}
			inFlood(t, defaultSlots, func(s *storm, victim string) {
				var keys []string
				for range 50 {
					keys = append(keys, s.newKey(kms.CreateKeyInput{}))
				}
				time.Sleep(time.Minute)
				calls := []string{"DisableKeyRotation", "ScheduleKeyDeletion", "DisableKey", "EnableKey", "PutKeyPolicy", "CreateGrant"}
				var bodies []string
				for n := range events {
					key := keys[n/2%len(keys)]
					if n%2 == 0 {
						key = fmt.Sprintf("arn:aws:kms:%s:%s:key/0d2a6c1e-93c1-4e7a-a0b5-%012d", region, account, n)
					}
					bodies = append(bodies, forgedCall(calls[n/7%len(calls)], key, fmt.Sprintf("flooder-%d", n%actors), n))
				}
				s.flood(victim, bodies)
			}, func(s *storm) { s.open = true })
		})
	}
}
