#include "dicom/dicom_fdstream.h"

#include "dcmtk/dcmdata/dcerror.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <unistd.h>

namespace
{

constexpr size_t FIRST_CHUNK = 8 * 1024;
constexpr size_t MAX_CHUNK = 64 * 1024;
// Kept behind the position of inflated data, for putback(): DCMTK wants 1 KiB.
constexpr size_t HISTORY = 4 * 1024;
constexpr size_t INFLATE_WINDOW = 64 * 1024;

ssize_t readAt(int fd, void *buf, size_t n, offile_off_t offset)
{
    ssize_t got;
    do {
        got = pread(fd, buf, n, static_cast<off_t>(offset));
    } while (got < 0 && errno == EINTR);
    return got;
}

} // namespace

FdProducer::FdProducer(const FdSource &source) : source_(source), chunk_(FIRST_CHUNK)
{
    if (!source_.deflated) {
        return;
    }
    unsigned char head[2] = {};
    const bool zlibHeader = readAt(source_.fd, head, 2, source_.start) == 2 &&
                            (head[0] & 0x0f) == 8 && (head[0] * 256 + head[1]) % 31 == 0;
    zlibOpen_ = inflateInit2(&zlib_, zlibHeader ? MAX_WBITS : -MAX_WBITS) == Z_OK;
    inputOffset_ = source_.start;
    if (!zlibOpen_) {
        throw std::bad_alloc();
    }
}

FdProducer::~FdProducer()
{
    if (zlibOpen_) {
        inflateEnd(&zlib_);
    }
}

void FdProducer::fail(Fault fault)
{
    if (fault_ == Fault::none) {
        fault_ = fault;
    }
}

// Data that end too early still hold what came before, so only the others make the stream bad.
OFBool FdProducer::good() const
{
    return fault_ == Fault::none || fault_ == Fault::deflate_cut;
}

OFCondition FdProducer::status() const
{
    return good() ? EC_Normal : EC_InvalidStream;
}

offile_off_t FdProducer::left() const
{
    return source_.end - source_.start - position_;
}

bool FdProducer::inWindow() const
{
    return position_ >= windowStart_ &&
           position_ < windowStart_ + static_cast<offile_off_t>(windowLength_);
}

bool FdProducer::fill()
{
    if (inWindow()) {
        return true;
    }
    if (fault_ != Fault::none) {
        return false;
    }
    return source_.deflated ? fillInflated() : fillPlain();
}

// Reads on in growing chunks; after a skip a small one again, as what follows is often a header and
// the next skip.
bool FdProducer::fillPlain()
{
    if (left() <= 0) {
        return false;
    }
    const bool sequential = position_ == windowStart_ + static_cast<offile_off_t>(windowLength_);
    chunk_ = sequential && position_ > 0 ? std::min(chunk_ * 2, MAX_CHUNK) : FIRST_CHUNK;
    const size_t want = static_cast<size_t>(std::min(static_cast<offile_off_t>(chunk_), left()));
    if (window_.size() < want) {
        window_.resize(chunk_);
    }
    const ssize_t got = readAt(source_.fd, window_.data(), want, source_.start + position_);
    windowStart_ = position_;
    windowLength_ = got > 0 ? static_cast<size_t>(got) : 0;
    if (got <= 0) {
        fail(Fault::io);
        return false;
    }
    return true;
}

bool FdProducer::isBomb() const
{
    const offile_off_t out = windowStart_ + static_cast<offile_off_t>(windowLength_);
    const offile_off_t in =
        inputOffset_ - source_.start - static_cast<offile_off_t>(zlib_.avail_in);
    return out > FDSTREAM_MAX_INFLATED ||
           (out > FDSTREAM_MAX_EMPTINESS && out / FDSTREAM_EMPTY_RATIO > in);
}

// Called with the position at the window's end only, as inflated data cannot be skipped unseen.
bool FdProducer::fillInflated()
{
    if (zlibEnd_) {
        return false;
    }
    if (window_.empty()) {
        window_.resize(INFLATE_WINDOW);
        input_.resize(MAX_CHUNK);
    }
    const size_t keep = std::min(windowLength_, HISTORY);
    memmove(window_.data(), window_.data() + windowLength_ - keep, keep);
    windowStart_ += static_cast<offile_off_t>(windowLength_ - keep);
    windowLength_ = keep;
    while (windowLength_ == keep && !zlibEnd_) {
        if (zlib_.avail_in == 0) {
            const offile_off_t rest = source_.end - inputOffset_;
            const size_t want =
                static_cast<size_t>(std::min(static_cast<offile_off_t>(input_.size()), rest));
            const ssize_t got =
                want > 0 ? readAt(source_.fd, input_.data(), want, inputOffset_) : 0;
            if (got <= 0) {
                fail(want > 0 ? Fault::io : Fault::deflate_cut);
                return false;
            }
            inputOffset_ += got;
            zlib_.next_in = input_.data();
            zlib_.avail_in = static_cast<uInt>(got);
        }
        zlib_.next_out = window_.data() + windowLength_;
        zlib_.avail_out = static_cast<uInt>(window_.size() - windowLength_);
        const int result = inflate(&zlib_, Z_NO_FLUSH);
        windowLength_ = window_.size() - zlib_.avail_out;
        zlibEnd_ = result == Z_STREAM_END;
        if (result != Z_OK && result != Z_STREAM_END && windowLength_ == keep) {
            fail(Fault::deflate);
            return false;
        }
        if (isBomb()) {
            windowLength_ = keep;
            fail(Fault::bomb);
            return false;
        }
    }
    return inWindow();
}

OFBool FdProducer::eos()
{
    return source_.deflated ? !fill() : left() <= 0;
}

// Of inflated data what is in the window is known to be there. DCMTK asks for it before it reads a
// header of up to 12 bytes, which must not be torn by the window's end.
offile_off_t FdProducer::avail()
{
    if (!source_.deflated) {
        return std::max(left(), offile_off_t(0));
    }
    unsigned char header[16];
    const offile_off_t got = read(header, sizeof(header));
    putback(got);
    return std::max(got, windowStart_ + static_cast<offile_off_t>(windowLength_) - position_);
}

offile_off_t FdProducer::read(void *buf, offile_off_t buflen)
{
    unsigned char *out = static_cast<unsigned char *>(buf);
    offile_off_t done = 0;
    while (done < buflen && fill()) {
        const offile_off_t inWindowLeft =
            windowStart_ + static_cast<offile_off_t>(windowLength_) - position_;
        const offile_off_t n = std::min(buflen - done, inWindowLeft);
        memcpy(out + done, window_.data() + (position_ - windowStart_), static_cast<size_t>(n));
        position_ += n;
        done += n;
    }
    return done;
}

offile_off_t FdProducer::skip(offile_off_t skiplen)
{
    if (!source_.deflated) {
        const offile_off_t n = std::max(std::min(skiplen, left()), offile_off_t(0));
        position_ += n;
        return n;
    }
    offile_off_t done = 0;
    while (done < skiplen && fill()) {
        const offile_off_t inWindowLeft =
            windowStart_ + static_cast<offile_off_t>(windowLength_) - position_;
        const offile_off_t n = std::min(skiplen - done, inWindowLeft);
        position_ += n;
        done += n;
    }
    return done;
}

void FdProducer::putback(offile_off_t num)
{
    const offile_off_t lowest = source_.deflated ? windowStart_ : 0;
    if (position_ - num < lowest) {
        fail(Fault::io);
    } else {
        position_ -= num;
    }
}

FdStream::FdStream(const FdSource &source, offile_off_t offset)
    : DcmInputStream(&producer_), producer_(source)
{
    producer_.skip(offset);
}

DcmInputStreamFactory *FdStream::newFactory() const
{
    return new FdStreamFactory(producer_.source(), producer_.position());
}

size_t FdStream::peek(void *buf, size_t n)
{
    const offile_off_t got = producer_.read(buf, static_cast<offile_off_t>(n));
    producer_.putback(got);
    return static_cast<size_t>(got);
}

bool FdStream::lookBack(void *buf, size_t n)
{
    const offile_off_t length = static_cast<offile_off_t>(n);
    if (n > 64 || producer_.position() < length) {
        return false;
    }
    producer_.putback(length);
    return producer_.read(buf, length) == length;
}

DcmInputStream *FdStreamFactory::create() const
{
    return new FdStream(source_, offset_);
}

DcmInputStreamFactory *FdStreamFactory::clone() const
{
    return new FdStreamFactory(*this);
}

DcmInputStreamFactoryType FdStreamFactory::ident() const
{
    return DFT_DcmInputFileStreamFactory; // nothing in DCMTK looks at it
}
