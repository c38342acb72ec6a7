package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"golang.org/x/sync/errgroup"

	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
	"github.com/cmkeeper/cmkeeper/state"
)

// largest is how many bytes SQS lets a message have.
const largest = 1 << 20

// largeMessages are messages as large as SQS takes them, of every sort that the worker has
// to do something else about.
func largeMessages(key string) map[string]string {
	record := func(name, parameters string) string {
		return strings.Replace(event("kms.amazonaws.com", name, key), `"requestParameters":{`, `"requestParameters":{`+parameters+`,`, 1)
	}
	fill := func(format string) string { // with as much text as there is room for
		return strings.Replace(format, "FILL", strings.Repeat("x", largest-len(format)+4), 1)
	}
	repeat := func(format, part string) string { // with the part as often as there is room for
		times := (largest - len(format)) / (len(part) + 1)
		return strings.Replace(format, "FILL", strings.TrimSuffix(strings.Repeat(part+",", times), ","), 1)
	}
	quote := func(s string) string { return strings.Trim(strconv.Quote(s), `"`) }
	wrapped, _ := json.Marshal(map[string]string{"Type": "Notification", "Message": "FILL"})
	return map[string]string{
		"no event":                   strings.Repeat("x", largest),
		"no event, all of it quotes": strings.Repeat(`"`, largest),
		"brackets":                   strings.Repeat("[", largest),
		"an event of nobody":         fill(record("DescribeKey", `"note":"FILL"`)),
		"a policy":                   repeat(record("PutKeyPolicy", `"policy":"{\"Statement\":[FILL]}"`), quote(`{"Effect":"Allow","Principal":"*","Action":"kms:*","Resource":"*"}`)),
		"a policy that is none":      fill(record("PutKeyPolicy", `"policy":"FILL"`)),
		"tags":                       repeat(record("TagResource", `"tags":[FILL]`), `{"tagKey":"cmkeeper:a","tagValue":"b"}`),
		"a deletion":                 fill(record("ScheduleKeyDeletion", `"note":"FILL"`)),
		"a grant":                    repeat(record("CreateGrant", `"operations":[FILL]`), `"Decrypt"`),
		"a refusal":                  fill(strings.Replace(record("DisableKey", `"note":"x"`), `"eventName"`, `"errorCode":"AccessDenied","errorMessage":"FILL","eventName"`, 1)),
		"a notification of SNS":      fill(string(wrapped)),
	}
}

// TestMemoryOfLargeMessages has the binary as it is shipped, with the configuration's
// defaults, work off a queue of the largest messages that there are, and measures the most
// memory that it had.
func TestMemoryOfLargeMessages(t *testing.T) {
	if os.Getenv("CMKEEPER_SOAK") == "" {
		t.Skip("CMKEEPER_SOAK is not set: it builds the binary and sends gigabytes")
	}
	binary := build(t, "../..")
	for _, name := range append(slices.Sorted(maps.Keys(largeMessages(""))), "all of them") {
		t.Run(name, func(t *testing.T) {
			wantMemory(t, binary, func(box *sandbox.Sandbox) {
				key := must(kms.NewFromConfig(box.Config("operator")).CreateKey(t.Context(), &kms.CreateKeyInput{}))(t)
				client := sqs.NewFromConfig(box.Config(sandbox.WorkerKey)) // the queue takes messages of our role only
				for n := 0; n < 200; {
					for kind, body := range largeMessages(*key.KeyMetadata.Arn) {
						if kind == name || name == "all of them" {
							n++
							must(client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &box.EventsQueue, MessageBody: aws.String(body[:min(len(body), largest)])}))(t)
						}
					}
				}
			})
		})
	}
	t.Run("200 keys of which each policy has a thousand findings", func(t *testing.T) {
		wantMemory(t, binary, func(box *sandbox.Sandbox) {
			client := kms.NewFromConfig(box.Config("operator"))
			var statements []string
			for n := range 1000 {
				statements = append(statements, fmt.Sprintf(`"%012d"`, 100000000000+n))
			}
			policy := `{"Statement":[{"Effect":"Allow","Principal":{"AWS":["` + sandbox.Account + `",` + strings.Join(statements, ",") + `]},"Action":"kms:*","Resource":"*"}]}`
			for range 200 {
				must(client.CreateKey(t.Context(), &kms.CreateKeyInput{Policy: &policy}))(t)
			}
		})
	})
}

// TestMemoryOfASweep has the binary as it is shipped sweep an account of many keys for the
// first time, alone, and measures the most memory that it had: 100,000 keys with
// CMKEEPER_SOAK=1, else as many as that says. It uses all of KMS's quotas, so as not to take
// hours.
func TestMemoryOfASweep(t *testing.T) {
	keys, err := strconv.Atoi(os.Getenv("CMKEEPER_SOAK"))
	if err != nil {
		t.Skip("CMKEEPER_SOAK is not set: it builds the binary and makes 100,000 keys")
	}
	if keys < 2 {
		keys = 100_000
	}
	box := startSandbox(t)
	trails := awsclient.CloudTrail(box.Config(operator))
	call := func(operation string) {
		t.Helper()
		if err := trails.Call(t.Context(), operation, map[string]string{"Name": "management"}, nil); err != nil {
			t.Fatal(err)
		}
	}
	call("StopLogging") // the keys were there before the worker
	client := kms.NewFromConfig(inprocess.Config(box.AWS, sandbox.Region, operator))
	var making errgroup.Group
	making.SetLimit(16)
	for range keys {
		making.Go(func() error {
			_, err := client.CreateKey(t.Context(), &kms.CreateKeyInput{})
			return err
		})
	}
	if err := making.Wait(); err != nil {
		t.Fatal(err)
	}
	call("StartLogging")
	p := spawn(t, box, build(t, "../.."), "CMKEEPER_SWEEP_QUOTA_SHARE=1")
	defer p.kill()
	began, store := time.Now(), state.New(awsclient.S3(box.Config(operator), nil), sandbox.StateBucket, "cmkeeper/", sandbox.Account)
	var swept ledger.SweepRecord
	for swept.Run == "" && time.Since(began) < 3*time.Hour {
		time.Sleep(time.Second)
		for name, err := range store.Keys(t.Context(), ledger.RecordsOf(time.Now().UTC().Format(time.DateOnly))) {
			if err != nil {
				t.Fatal(err)
			}
			must(store.Get(t.Context(), name, &swept))(t)
		}
	}
	most := peakBytes(t, p.command.Process.Pid)
	t.Logf("%d keys in %d shards: at most %d MiB resident, the first sweep took %d s", swept.Totals.Keys, swept.Shards, most>>20, swept.Seconds)
	if most > mostMemory {
		t.Errorf("at most %d MiB resident, want %d", most>>20, mostMemory>>20)
	}
	if swept.Totals.Keys != keys || !swept.Whole {
		t.Errorf("it has not swept them all: %+v", swept)
	}
}

// mostMemory is what a worker may have resident, with the defaults.
const mostMemory = 128 << 20

// wantMemory has a worker work off what prepare puts into the queue, and wants it to have
// mostMemory.
func wantMemory(t *testing.T, binary string, prepare func(*sandbox.Sandbox)) {
	t.Helper()
	box := startSandbox(t)
	prepare(box)
	client := sqs.NewFromConfig(box.Config("operator"))
	p := spawn(t, box, binary)
	defer p.kill()
	p.received(t)
	most, began := 0, time.Now()
	for ; time.Since(began) < 3*time.Minute; time.Sleep(50 * time.Millisecond) {
		most = max(most, peakBytes(t, p.command.Process.Pid))
		out := must(client.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &box.EventsQueue, AttributeNames: []types.QueueAttributeName{"All"}}))(t)
		if out.Attributes["ApproximateNumberOfMessages"] == "0" && out.Attributes["ApproximateNumberOfMessagesNotVisible"] == "0" && out.Attributes["ApproximateNumberOfMessagesDelayed"] == "0" {
			break
		}
	}
	t.Logf("at most %d MiB resident; the queue was empty after %s", most>>20, time.Since(began).Round(100*time.Millisecond))
	if most > mostMemory {
		t.Errorf("at most %d MiB resident, want %d", most>>20, mostMemory>>20)
	}
}

// peakBytes is the most resident memory that a process ever had, as Linux counts it.
func peakBytes(t testing.TB, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skipf("no /proc here: %v", err)
	}
	for line := range bytes.Lines(status) {
		if fields := bytes.Fields(line); len(fields) > 1 && string(fields[0]) == "VmHWM:" {
			kb, err := strconv.Atoi(string(fields[1]))
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}
