package usage

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"testing/iotest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

const (
	keyARN   = "arn:aws:kms:eu-central-1:111122223333:key/1b2c3d4e-0000-4000-8000-000000000001"
	otherARN = "arn:aws:kms:eu-central-1:111122223333:key/1b2c3d4e-0000-4000-8000-000000000002"
)

var (
	to   = time.Date(2026, 6, 30, 12, 0, 0, 0, time.UTC)
	from = to.AddDate(0, 0, -30)
)

// call is a call as it was made.
type call struct {
	id, operation, key, principal, role, invokedBy, address, bucket, code string
	at                                                                    time.Time
}

// record is CloudTrail's record of it, with texts that a reader must pass over.
func (c call) record() []byte {
	identity := map[string]any{"type": "IAMUser", "arn": c.principal, "accountId": "111122223333", "userName": "x"}
	if c.role != "" {
		identity = map[string]any{"type": "AssumedRole", "arn": c.principal, "accountId": "111122223333",
			"sessionContext": map[string]any{"sessionIssuer": map[string]any{"type": "Role", "arn": c.role, "userName": "app"}}}
	}
	if c.invokedBy != "" {
		identity["invokedBy"] = c.invokedBy
	}
	r := map[string]any{
		"eventVersion": "1.11", "eventID": c.id, "eventName": c.operation, "eventSource": "kms.amazonaws.com", "eventTime": c.at.Format(time.RFC3339),
		"awsRegion": "eu-central-1", "recipientAccountId": "111122223333", "sourceIPAddress": c.address, "userAgent": `a "quoted\" \\ brace } {`,
		"userIdentity": identity, "resources": []map[string]string{{"ARN": c.key, "type": "AWS::KMS::Key"}}, "readOnly": true, "eventType": "AwsApiCall",
		"requestParameters": map[string]any{"encryptionContext": map[string]string{"aws:s3:arn": "arn:aws:s3:::" + c.bucket + "/a}b\"c"}},
	}
	if c.operation == "DescribeKey" {
		r["requestParameters"] = map[string]any{"keyId": c.key}
	}
	if c.code != "" {
		r["errorCode"] = c.code
	}
	text, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	return text
}

// calls are calls for two keys over more than the time that is asked for.
func calls(n int, rnd *rand.Rand) []call {
	all := make([]call, n)
	for i := range all {
		c := call{
			id: fmt.Sprintf("%08x-%04x-4000-8000-%012x", rnd.Uint32(), rnd.Uint32N(1<<16), i), key: keyARN,
			operation: []string{"Decrypt", "GenerateDataKey", "Encrypt", "DescribeKey"}[rnd.IntN(4)],
			address:   fmt.Sprintf("203.0.%d.%d", rnd.IntN(3), rnd.IntN(20)), bucket: fmt.Sprintf("bucket-%d", rnd.IntN(7)),
			at: from.AddDate(0, 0, -40).Add(time.Duration(rnd.Int64N(int64(75 * 24 * time.Hour)))).Truncate(time.Second),
		}
		if rnd.IntN(3) == 0 {
			c.key = otherARN
		}
		if rnd.IntN(2) == 0 {
			c.role = fmt.Sprintf("arn:aws:iam::111122223333:role/app-%d", rnd.IntN(3))
			c.principal = fmt.Sprintf("arn:aws:sts::111122223333:assumed-role/app/%d", rnd.IntN(9))
			c.invokedBy = []string{"", "s3.amazonaws.com"}[rnd.IntN(2)]
		} else {
			c.principal = fmt.Sprintf("arn:aws:iam::111122223333:user/u%d", rnd.IntN(9))
		}
		if rnd.IntN(10) == 0 {
			c.code = "AccessDenied"
		}
		all[i] = c
	}
	return all
}

// tally counts calls of the time by what they have in common: independently of the package.
type tally map[string]map[string]*Row

// parts are what calls are counted by, each with its rows of a table.
var parts = map[string]struct {
	of   func(call) string
	rows func(Table) []Row
}{
	"all":        {func(call) string { return "all" }, nil},
	"days":       {func(c call) string { return c.at.Format(time.DateOnly) }, nil},
	"operations": {func(c call) string { return c.operation }, func(t Table) []Row { return t.Operations }},
	"principals": {func(c call) string { return c.principal }, func(t Table) []Row { return t.Principals }},
	"roles":      {func(c call) string { return c.role }, func(t Table) []Row { return t.Roles }},
	"services":   {func(c call) string { return c.invokedBy }, func(t Table) []Row { return t.Services }},
	"addresses":  {func(c call) string { return c.address }, func(t Table) []Row { return t.Addresses }},
	"failures":   {func(c call) string { return c.code }, func(t Table) []Row { return t.Failures }},
	"resources": {func(c call) string {
		if c.operation == "DescribeKey" {
			return ""
		}
		return "s3-bucket " + c.bucket
	}, func(t Table) []Row { return t.Resources }},
}

func (all tally) add(c call) {
	if c.key != keyARN || c.at.Before(from) || !c.at.Before(to) {
		return
	}
	for part, by := range parts {
		name := by.of(c)
		if name == "" {
			continue
		}
		if all[part] == nil {
			all[part] = map[string]*Row{}
		}
		r := all[part][name]
		if r == nil {
			r = &Row{Name: name, First: c.at, Last: c.at}
			all[part][name] = r
		}
		r.Calls++
		if c.code != "" {
			r.Failed++
		}
		r.First, r.Last = earlier(r.First, c.at), later(r.Last, c.at)
	}
}

// compare compares a table with what is known of the calls.
func (all tally) compare(tb testing.TB, got Table) {
	tb.Helper()
	for part, by := range parts {
		if by.rows == nil {
			continue
		}
		want := []Row{}
		for _, name := range slices.Sorted(maps.Keys(all[part])) {
			want = append(want, *all[part][name])
		}
		slices.SortStableFunc(want, func(a, b Row) int { return cmp.Compare(b.Calls, a.Calls) })
		if d := gocmp.Diff(want, by.rows(got)); d != "" {
			tb.Errorf("%s: %s", part, d)
		}
	}
	total := all["all"]["all"]
	if got.Calls != total.Calls || got.Failed != total.Failed || !got.First.Equal(total.First) || !got.Last.Equal(total.Last) {
		tb.Errorf("%d calls, %d failed, %s to %s; want %+v", got.Calls, got.Failed, got.First, got.Last, total)
	}
	if len(got.Days) != 31 {
		tb.Errorf("%d days", len(got.Days))
	}
	for _, d := range got.Days {
		if r := all["days"][d.Date]; r == nil || r.Calls != d.Calls || r.Failed != d.Failed {
			tb.Errorf("%+v; want %+v", d, r)
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// logFile is a log file with the records.
func logFile(tb testing.TB, records [][]byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := fmt.Fprintf(z, `{"Records":[%s]}`, bytes.Join(records, []byte(",")))
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// logs are log files of the calls, so many in each.
func logs(tb testing.TB, all []call, each int) fstest.MapFS {
	tb.Helper()
	files := fstest.MapFS{}
	for i, part := range slices.Collect(slices.Chunk(all, each)) {
		var records [][]byte
		for _, c := range part {
			records = append(records, c.record())
		}
		files[fmt.Sprintf("AWSLogs/%04d.json.gz", i)] = &fstest.MapFile{Data: logFile(tb, records)}
	}
	return files
}

// read collects the files.
func read(tb testing.TB, fsys fstest.MapFS) Table {
	tb.Helper()
	files, err := Folder(fsys)
	if err != nil {
		tb.Fatal(err)
	}
	c := NewCollector(keyARN, from, to, nil)
	if err := c.ReadFiles(context.Background(), files, nil); err != nil {
		tb.Fatal(err)
	}
	return c.Table()
}

// TestTable compares a table with what is known of the calls.
func TestTable(t *testing.T) {
	all := calls(20_000, rand.New(rand.NewPCG(1, 2)))
	files := logs(t, append(slices.Clone(all), all[:500]...), 1500) // some come twice
	files["AWSLogs/broken.json.gz"] = &fstest.MapFile{Data: []byte("no gzip")}
	files["AWSLogs/cut.json.gz"] = &fstest.MapFile{Data: files["AWSLogs/0000.json.gz"].Data[:2000]}
	files["AWSLogs/CloudTrail-Digest/d.json.gz"] = &fstest.MapFile{Data: []byte("x")}
	files["AWSLogs/other.txt"] = &fstest.MapFile{Data: []byte("x")}
	got := read(t, files)
	known := tally{}
	for _, c := range all {
		known.add(c)
	}
	known.compare(t, got)
	if s := got.Source; s.Repeated == 0 || len(s.Unread) != 2 || !strings.Contains(strings.Join(s.Unread, " "), "AWSLogs/broken.json.gz: ") {
		t.Errorf("source: %+v", s)
	}
}

// TestUnusual: what the time before did not have is told with the numbers.
func TestUnusual(t *testing.T) {
	usual := call{operation: "Decrypt", key: keyARN, principal: "arn:aws:iam::111122223333:user/app", address: "203.0.113.7", bucket: "orders"}
	var all []call
	n := 0
	add := func(c call, at time.Time, times int) {
		for range times {
			n++
			c.id, c.at = fmt.Sprintf("%08x-0000-4000-8000-000000000000", n), at
			all = append(all, c)
		}
	}
	for day := 1; day < 60; day++ {
		add(usual, to.AddDate(0, 0, -day), 5)
	}
	mallory := usual
	mallory.principal, mallory.address, mallory.bucket, mallory.invokedBy = "arn:aws:iam::111122223333:user/mallory", "2001:db8:1:2::3", "payroll", "athena.amazonaws.com"
	add(mallory, to.AddDate(0, 0, -3), 40)
	got := read(t, logs(t, all, 1000))
	var kinds []string
	for _, u := range got.Unusual {
		kinds = append(kinds, u.Kind+" "+u.Name)
	}
	want := []string{"principal " + mallory.principal, "service athena.amazonaws.com", "network 2001:db8:1::/48", "resource s3-bucket payroll", "volume " + to.AddDate(0, 0, -3).Format(time.DateOnly)}
	if d := gocmp.Diff(want, kinds); d != "" {
		t.Error(d)
	}
	if last := got.Unusual[len(got.Unusual)-1].Text; last != "45 calls; the days before had 5 to 5" {
		t.Error(last)
	}
	if none := read(t, logs(t, all[len(all)-40:], 1000)); none.Unusual != nil || !strings.Contains(none.Before, "nothing to compare") {
		t.Errorf("nothing before: %+v, %s", none.Unusual, none.Before)
	}
}

// TestFilesOfOtherTimes: the name of a log file says when it was delivered.
func TestFilesOfOtherTimes(t *testing.T) {
	for name, want := range map[string]bool{
		"x/111122223333_CloudTrail_eu-central-1_20260601T0010Z_abc.json.gz": true,
		"x/111122223333_CloudTrail_eu-central-1_20260401T0010Z_abc.json.gz": false,
		"x/111122223333_CloudTrail_eu-central-1_20260801T0010Z_abc.json.gz": false,
		"x/111122223333_CloudTrail_eu-central-1_20260701T0010Z_abc.json.gz": true, // of events before it
		"any.json": true,
	} {
		if got := (File{Name: name}).May(from, to); got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
	none := read(t, fstest.MapFS{"1_CloudTrail_x_20260401T0010Z_a.json.gz": &fstest.MapFile{}})
	if err := none.Source.Err(); err == nil || err.Error() != "the table may lack calls; not read: all of the 1 log files: they were delivered at other times, by their names" {
		t.Errorf("%+v: %v", none.Source, err)
	}
}

// FuzzRecords compares the way records are cut out with encoding/json.
func FuzzRecords(f *testing.F) {
	f.Add(`{"Records":[{"a":1},{"b":"}\\\" {","c":{}}]}`)
	f.Add(`{"Records":[]}`)
	f.Add(" { \"Records\" : [ {} ,\n{\"x\":[\"]\"]} ] } ")
	f.Fuzz(func(t *testing.T, text string) {
		var whole struct{ Records []json.RawMessage }
		d := json.NewDecoder(strings.NewReader(text))
		if !strings.HasPrefix(strings.Join(strings.Fields(text), ""), `{"Records":[`) || d.Decode(&whole) != nil {
			return
		}
		for _, r := range whole.Records {
			if r[0] != '{' {
				return
			}
		}
		var got []string
		if err := eachRecord(iotest.OneByteReader(strings.NewReader(text)), func(r []byte) { got = append(got, string(r)) }); err != nil {
			if strings.Count(text, `"Records"`) > 1 || strings.Contains(text, `\u0`) {
				return // of two members of a name only the first is read
			}
			t.Fatalf("%v of %q", err, text)
		}
		if strings.Count(text, `"Records"`) > 1 {
			return
		}
		var want []string
		for _, r := range whole.Records {
			want = append(want, string(r))
		}
		if d := gocmp.Diff(want, got); d != "" {
			t.Errorf("%q: %s", text, d)
		}
	})
}

// benchFiles writes log files of about so many bytes, unpacked, to a folder.
func benchFiles(b *testing.B, size int) (dir string, known tally) {
	b.Helper()
	dir, known = b.TempDir(), tally{}
	rnd := rand.New(rand.NewPCG(1, 2))
	for i, left := 0, size; left > 0; i++ {
		var records [][]byte
		for _, c := range calls(8000, rnd) {
			known.add(c)
			records = append(records, c.record())
			left -= len(records[len(records)-1])
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%05d.json.gz", i)), logFile(b, records), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	return dir, known
}

// BenchmarkFiles reads log files, and compares the table with what is known of them, in turns with gzip -dc and encoding/json over the same
// ones. CMKEEPER_USAGE_BYTES is how many bytes they have unpacked.
func BenchmarkFiles(b *testing.B) {
	size := 64 << 20
	if _, err := fmt.Sscan(os.Getenv("CMKEEPER_USAGE_BYTES"), &size); err != nil {
		size = 64 << 20
	}
	dir, known := benchFiles(b, size)
	var ours, theirs time.Duration
	var peak uint64
	for b.Loop() {
		files, err := Folder(os.DirFS(dir))
		if err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		c := NewCollector(keyARN, from, to, nil)
		if err := c.ReadFiles(b.Context(), files, func(int64) {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapInuse)
		}); err != nil {
			b.Fatal(err)
		}
		ours += time.Since(began)
		known.compare(b, c.Table())
		began = time.Now()
		plain(b, dir)
		theirs += time.Since(began)
	}
	b.ReportMetric(float64(size)*float64(b.N)/ours.Seconds()/(1<<20), "MiB/s")
	b.ReportMetric(float64(theirs)/float64(ours), "of-gzip-and-json")
	b.ReportMetric(float64(peak)/(1<<20), "MiB-heap")
}

// plain unpacks the files with gzip and decodes all records.
func plain(b *testing.B, dir string) {
	b.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.gz"))
	if err != nil {
		b.Fatal(err)
	}
	command := exec.CommandContext(b.Context(), "gzip", append([]string{"-dc"}, names...)...)
	out, err := command.StdoutPipe()
	if err == nil {
		err = command.Start()
	}
	if err != nil {
		b.Skipf("gzip is not here: %v", err)
	}
	d := json.NewDecoder(out)
	for {
		var file struct {
			Records []struct {
				EventName    string           `json:"eventName"`
				EventTime    string           `json:"eventTime"`
				ErrorCode    string           `json:"errorCode"`
				UserIdentity map[string]any   `json:"userIdentity"`
				Resources    []map[string]any `json:"resources"`
				Parameters   map[string]any   `json:"requestParameters"`
			}
		}
		if err := d.Decode(&file); err == io.EOF {
			break
		} else if err != nil {
			b.Fatal(err)
		}
	}
	if err := command.Wait(); err != nil {
		b.Fatal(err)
	}
}
