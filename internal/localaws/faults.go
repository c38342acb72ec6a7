package localaws

import (
	"cmp"
	"encoding/xml"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/s3control"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// Request names a request that reached the server.
type Request struct {
	// Service is "kms", "s3", "s3control", "sqs", "sns", "events", "cloudtrail",
	// "config", "ec2", "rds" or "sts"; "" for one that is not modelled.
	Service string
	// Operation is the operation as the API names it ("UploadPartCopy").
	Operation string
	// Path is the URL's, decoded: "/bucket/key" in S3, where addressed by path.
	Path string
	// Caller is who signed it.
	Caller wire.Caller
}

// Effect is what a Fault does to a request.
type Effect int

// The effects. After means that the request has done its work when it fails.
const (
	// Delay holds the request back for a time drawn from Fault.Latency.
	Delay Effect = iota
	// Throttle refuses what exceeds Fault.Rate, with the service's own error:
	// 503 SlowDown in S3, ThrottlingException in KMS.
	Throttle
	// FailBefore and FailAfter answer with the service's internal error, 500.
	FailBefore
	FailAfter
	// DropBefore and DropAfter break the connection without an answer.
	DropBefore
	DropAfter
)

// Fault is something that goes wrong with requests.
type Fault struct {
	// Service and Operations say with which requests, as in Request; empty means all.
	Service    string
	Operations []string
	// Caller is the access key id of whom it happens to; empty means everybody.
	Caller string
	// Effect is what happens to them.
	Effect Effect
	// Probability is the part of the requests that it happens to, from 0 to 1;
	// zero means 1.
	Probability float64
	// Count is how many times it happens at most; zero means without end.
	Count int
	// Latency is Delay's distribution.
	Latency Latency
	// Rate is how many requests per second Throttle lets pass.
	Rate float64
	// Burst is how many it lets pass at once after a pause; zero is a second's worth.
	Burst float64
	// PerPrefix makes Throttle count each prefix of S3 keys, up to the last
	// slash, on its own, and a bucket's own operations with its top level.
	PerPrefix bool
}

// Latency is an exponential distribution above a minimum: most delays are
// near it, a few are several times the mean.
type Latency struct {
	Min, Mean time.Duration
}

// S3Rates returns the request rates that S3 promises per prefix: 3,500 writes
// and 5,500 reads a second. UpdateObjectEncryption counts as a write, which AWS
// does not say.
func S3Rates() []Fault {
	writes := []string{"PutObject", "CopyObject", "DeleteObject", "PostObject", "CreateMultipartUpload", "UploadPart", "UploadPartCopy", "CompleteMultipartUpload", "AbortMultipartUpload", "PutObjectTagging", "PutObjectAcl", "UpdateObjectEncryption", "ListObjects", "ListObjectsV2", "ListObjectVersions"}
	reads := []string{"GetObject", "HeadObject", "GetObjectTagging", "GetObjectAcl", "GetObjectAttributes"}
	return []Fault{
		{Service: "s3", Operations: writes, Effect: Throttle, Rate: 3500, PerPrefix: true},
		{Service: "s3", Operations: reads, Effect: Throttle, Rate: 5500, PerPrefix: true},
	}
}

// KMSQuotas returns KMS's request quotas of an account in a small Region. What
// S3 asks of KMS for its objects does not count against them here.
func KMSQuotas() []Fault {
	cryptographic := []string{"Encrypt", "Decrypt", "ReEncrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "GenerateRandom"}
	faults := []Fault{{Service: "kms", Operations: cryptographic, Effect: Throttle, Rate: 10_000}}
	for rate, operations := range map[float64][]string{
		5:    {"CancelKeyDeletion", "CreateAlias", "CreateKey", "DescribeCustomKeyStores", "DisableKey", "DisableKeyRotation", "EnableKey", "GetKeyLastUsage", "RotateKeyOnDemand", "UpdateAlias"},
		15:   {"DeleteAlias", "DeleteImportedKeyMaterial", "EnableKeyRotation", "PutKeyPolicy", "ScheduleKeyDeletion"},
		50:   {"CreateGrant", "RetireGrant", "RevokeGrant"},
		100:  {"ListGrants", "ListKeyRotations", "ListResourceTags"},
		500:  {"ListAliases", "ListKeys"},
		1000: {"GetKeyPolicy", "GetKeyRotationStatus"},
		2000: {"DescribeKey"},
	} {
		for _, operation := range operations {
			faults = append(faults, Fault{Service: "kms", Operations: []string{operation}, Effect: Throttle, Rate: rate})
		}
	}
	return faults
}

// SetFaults replaces the faults; without any, requests are served as they
// come. The faults of a request happen in the order given, and the first that
// ends it is the last one.
func (s *Server) SetFaults(faults ...Fault) {
	s.watch.setFaults(faults)
}

// Observe calls f with every request before it is served, also with one that
// a fault then hits, until stop is called. f may be called concurrently.
func (s *Server) Observe(f func(Request)) (stop func()) {
	return s.watch.observe(f)
}

// Requests returns how many requests of the service's operation have arrived.
func (s *Server) Requests(service, operation string) int {
	n, ok := s.watch.counts.Load(service + "." + operation)
	if !ok {
		return 0
	}
	return int(n.(*atomic.Int64).Load())
}

// watch stands between the server and its services: it counts requests, shows
// them to observers and lets faults happen to them.
type watch struct {
	seed   uint64
	counts sync.Map // "service.Operation" → *atomic.Int64

	mu        sync.Mutex // for writing to the next two
	observers atomic.Pointer[[]*func(Request)]
	faults    atomic.Pointer[faults]
}

func (w *watch) setFaults(list []Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(list) == 0 {
		w.faults.Store(nil)
		return
	}
	f := &faults{random: rand.New(rand.NewPCG(w.seed, 0))}
	for _, fault := range list {
		f.list = append(f.list, &runningFault{Fault: fault, buckets: map[string]*tokens{}})
	}
	w.faults.Store(f)
}

func (w *watch) observe(f func(Request)) (stop func()) {
	change := func(edit func(list []*func(Request)) []*func(Request)) {
		w.mu.Lock()
		defer w.mu.Unlock()
		var list []*func(Request)
		if old := w.observers.Load(); old != nil {
			list = slices.Clone(*old)
		}
		list = edit(list)
		w.observers.Store(&list)
	}
	change(func(list []*func(Request)) []*func(Request) { return append(list, &f) })
	return func() {
		change(func(list []*func(Request)) []*func(Request) {
			return slices.DeleteFunc(list, func(g *func(Request)) bool { return g == &f })
		})
	}
}

func (w *watch) serve(rw http.ResponseWriter, r *http.Request, handler http.Handler, request Request) {
	name := request.Service + "." + request.Operation
	count, ok := w.counts.Load(name)
	if !ok {
		count, _ = w.counts.LoadOrStore(name, new(atomic.Int64))
	}
	count.(*atomic.Int64).Add(1)
	if observers := w.observers.Load(); observers != nil {
		for _, f := range *observers {
			(*f)(request)
		}
	}
	if f := w.faults.Load(); f != nil {
		f.serve(rw, r, handler, request)
		return
	}
	handler.ServeHTTP(rw, r)
}

// faults are the faults in force, with what they have drawn and counted.
type faults struct {
	mu     sync.Mutex
	random *rand.Rand
	list   []*runningFault
}

type runningFault struct {
	Fault
	happened int
	buckets  map[string]*tokens // by prefix
}

// tokens is a token bucket.
type tokens struct {
	left float64
	at   time.Time
}

func (t *tokens) take(rate, burst float64, now time.Time) bool {
	t.left = min(burst, t.left+rate*now.Sub(t.at).Seconds())
	t.at = now
	if t.left < 1 {
		return false
	}
	t.left--
	return true
}

func (f *faults) serve(w http.ResponseWriter, r *http.Request, handler http.Handler, request Request) {
	for _, fault := range f.list {
		delay, happens := f.draw(fault, r, request)
		if !happens {
			continue
		}
		switch fault.Effect {
		case Delay:
			timer := time.NewTimer(delay)
			select {
			case <-timer.C:
			case <-r.Context().Done():
			}
			timer.Stop()
			continue
		case Throttle:
			writeError(w, r, request.Service, throttled(request.Service))
		case FailAfter:
			handler.ServeHTTP(nowhere{http.Header{}}, r)
			writeError(w, r, request.Service, internal(request.Service))
		case FailBefore:
			writeError(w, r, request.Service, internal(request.Service))
		case DropAfter:
			handler.ServeHTTP(nowhere{http.Header{}}, r)
			panic(http.ErrAbortHandler) // net/http's way to break the connection
		case DropBefore:
			panic(http.ErrAbortHandler)
		}
		return
	}
	handler.ServeHTTP(w, r)
}

// draw decides whether a fault happens to a request, and for a delay how long it is.
func (f *faults) draw(fault *runningFault, r *http.Request, request Request) (delay time.Duration, happens bool) {
	if fault.Service != "" && fault.Service != request.Service ||
		fault.Caller != "" && fault.Caller != request.Caller.AccessKeyID ||
		len(fault.Operations) > 0 && !slices.Contains(fault.Operations, request.Operation) {
		return 0, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if fault.Count > 0 && fault.happened >= fault.Count ||
		fault.Probability > 0 && f.random.Float64() >= fault.Probability {
		return 0, false
	}
	if fault.Effect == Throttle && fault.pass(r, time.Now()) {
		return 0, false
	}
	fault.happened++
	if fault.Effect == Delay {
		delay = fault.Latency.Min + time.Duration(f.random.ExpFloat64()*float64(max(0, fault.Latency.Mean-fault.Latency.Min)))
	}
	return delay, true
}

// pass reports whether the request is within the fault's rate.
func (f *runningFault) pass(r *http.Request, now time.Time) bool {
	prefix := ""
	if f.PerPrefix {
		prefix = r.URL.Path
		if slash := strings.LastIndexByte(prefix, '/'); slash > 0 { // else the bucket alone
			prefix = prefix[:slash]
		}
	}
	burst := max(1, cmp.Or(f.Burst, f.Rate))
	bucket := f.buckets[prefix]
	if bucket == nil {
		bucket = &tokens{left: burst, at: now}
		f.buckets[prefix] = bucket
	}
	return bucket.take(f.Rate, burst, now)
}

func throttled(service string) *wire.Error {
	switch service {
	case "s3":
		return wire.Errorf(http.StatusServiceUnavailable, "SlowDown", "Please reduce your request rate.")
	case "kms":
		return wire.Errorf(http.StatusBadRequest, "ThrottlingException", "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.")
	case "events", "cloudtrail", "config":
		return wire.Errorf(http.StatusBadRequest, "ThrottlingException", "Rate exceeded")
	case "s3control":
		return wire.Errorf(http.StatusBadRequest, "TooManyRequestsException", "Rate exceeded")
	case "sqs":
		return wire.Errorf(http.StatusBadRequest, "RequestThrottled", "The request was denied due to request throttling.")
	default:
		return wire.Errorf(http.StatusBadRequest, "Throttling", "Rate exceeded")
	}
}

func internal(service string) *wire.Error {
	code := "InternalFailure"
	switch service {
	case "s3":
		code = "InternalError"
	case "s3control":
		code = "InternalServiceException"
	case "kms":
		code = "KMSInternalException"
	}
	return wire.Errorf(http.StatusInternalServerError, code, "We encountered an internal error. Please try again.")
}

// writeError answers with an error in the service's protocol.
func writeError(w http.ResponseWriter, r *http.Request, service string, err *wire.Error) {
	switch {
	case service == "s3control":
		s3control.WriteError(w, r, err)
	case service == "s3":
		type body struct {
			XMLName   xml.Name `xml:"Error"`
			Code      string
			Message   string
			RequestID string `xml:"RequestId"`
		}
		doc, _ := xml.Marshal(body{Code: err.Code, Message: err.Message, RequestID: wire.RequestIDFrom(r.Context())}) // strings always encode
		w.Header().Set("X-Amz-Request-Id", wire.RequestIDFrom(r.Context()))
		wire.WriteXML(w, r, err.HTTPStatus(), doc)
	case r.Header.Get("X-Amz-Target") != "":
		wire.WriteJSONError(w, r, err)
	default:
		wire.WriteQueryError(w, r, "http://localaws.internal/", err)
	}
}

// nowhere is an http.ResponseWriter for an answer that nobody gets.
type nowhere struct{ header http.Header }

func (n nowhere) Header() http.Header         { return n.header }
func (n nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (n nowhere) WriteHeader(int)             {}
