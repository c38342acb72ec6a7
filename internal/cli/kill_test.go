package cli

import (
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// TestKilledWorkers kills the worker's process in the middle of a job, three
// times, each time with another one taking over. CMKEEPER_SOAK makes the job larger.
func TestKilledWorkers(t *testing.T) {
	const kills, slice = 3, 2000
	objects, latency := 3000, 4*time.Millisecond
	if os.Getenv("CMKEEPER_SOAK") != "" {
		objects, latency = 20_000, 20*time.Millisecond // long enough for slices to be recorded
	}
	binary := filepath.Join(t.TempDir(), "cmkeeper")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "github.com/cmkeeper/cmkeeper").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	a := newAccount(t)
	a.enter()
	oldKey, newKey := a.newKey(appAlias), a.newKey("")
	a.fill("app-data", appAlias, objects)
	// What a killed worker held comes back after this.
	must(a.sqs.SetQueueAttributes(t.Context(), &sqs.SetQueueAttributesInput{QueueUrl: &a.box.JobsQueue, Attributes: map[string]string{"VisibilityTimeout": "2"}}))(t)
	a.box.AWS.SetFaults(localaws.Fault{Service: "s3", Operations: []string{"UpdateObjectEncryption"}, Effect: localaws.Delay, Latency: localaws.Latency{Min: latency, Mean: latency}})

	var (
		mu      sync.Mutex
		written = map[string]int{} // objects by path
		writes  int
		reached = make(chan struct{}, kills)
	)
	defer a.box.AWS.Observe(func(r localaws.Request) {
		if r.Operation != "UpdateObjectEncryption" || !strings.HasPrefix(r.Path, "/app-data/") {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		written[r.Path]++
		if writes++; writes%(objects/(kills+1)) == 0 && writes/(objects/(kills+1)) <= kills {
			reached <- struct{}{}
		}
	})()

	job := decodeJSON[startedJobs](t, a.ok("start", "--bucket", "app-data", "--from", oldKey, "--to", newKey, "--json")).Jobs[0]
	kill := a.startProcess(binary)
	for range kills {
		select {
		case <-reached:
		case <-time.After(patience):
			t.Fatal("no worker goes on")
		}
		kill()
		kill = a.startProcess(binary)
	}
	if code, out, errs := a.fleetCommand("watch", job, "--interval", "100ms"); code != exitOK {
		t.Fatalf("exit code %d: %s%s", code, out, errs)
	}
	kill()
	a.box.AWS.SetFaults()

	a.expectUnder("app-data", newKey, objects)
	s := decodeJSON[reencrypt.Summary](t, a.ok("report", job, "--json"))
	if s.Scanned != int64(objects) || s.Moved+s.Skipped != s.Scanned {
		t.Errorf("%d objects, counts %+v", objects, s.Counts)
	}
	mu.Lock()
	defer mu.Unlock()
	repeated := writes - len(written)
	t.Logf("%d objects, %d kills: %d writes repeated, %d counted as moved", objects, kills, repeated, s.Moved)
	if len(written) != objects || repeated > kills*slice {
		t.Errorf("%d objects were written, %d writes repeated", len(written), repeated)
	}
	a.expectNoDeadLetters()
}

// startProcess starts a worker for jobs in a process of its own, and returns how to
// kill it as the kernel would.
func (a *account) startProcess(binary string) (kill func()) {
	a.t.Helper()
	settings := a.box.WorkerEnvironment(appAlias)
	maps.Copy(settings, map[string]string{
		"CMKEEPER_POOLS": "jobs", "CMKEEPER_REENCRYPT_CONCURRENCY": "16", "CMKEEPER_LOG_LEVEL": "warn",
		"AWS_ENDPOINT_URL": a.box.Endpoint, "AWS_REGION": sandbox.Region, "AWS_ACCESS_KEY_ID": sandbox.WorkerKey, "AWS_SECRET_ACCESS_KEY": "secret",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	})
	worker := exec.Command(binary, "worker")
	for name, value := range settings {
		worker.Env = append(worker.Env, name+"="+value)
	}
	log := &logBuffer{}
	worker.Stdout, worker.Stderr = io.Discard, log
	if err := worker.Start(); err != nil {
		a.t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = worker.Process.Kill()
		_ = worker.Wait() // says that it was killed
		if a.t.Failed() {
			a.t.Logf("log of a process:\n%s", log)
		}
	})
	a.t.Cleanup(kill)
	return kill
}
