#include "dicom/dicom_scan.h"

#include "dcmtk/dcmdata/dcdeftag.h"
#include "dcmtk/dcmdata/dcvr.h"
#include "dcmtk/dcmdata/dcxfer.h"

#include <algorithm>
#include <cstring>

namespace
{

constexpr Uint32 UNDEFINED = DCM_UndefinedLength;

constexpr offile_off_t MAX_PADDING = 64 * 1024;

const DcmTagKey ITEM(0xfffe, 0xe000);
const DcmTagKey ITEM_END(0xfffe, 0xe00d);
const DcmTagKey SEQUENCE_END(0xfffe, 0xe0dd);

bool isKnown(const DcmTagKey &key)
{
    DcmTag tag(key);
    return tag.getEVR() != EVR_UNKNOWN && tag.getEVR() != EVR_UNKNOWN2B && tag.getEVR() != EVR_na;
}

Uint32 get32(const unsigned char *p, bool bigEndian)
{
    return bigEndian ? Uint32(p[0]) << 24 | Uint32(p[1]) << 16 | Uint32(p[2]) << 8 | p[3]
                     : Uint32(p[3]) << 24 | Uint32(p[2]) << 16 | Uint32(p[1]) << 8 | p[0];
}

Uint16 get16(const unsigned char *p, bool bigEndian)
{
    return static_cast<Uint16>(bigEndian ? p[0] << 8 | p[1] : p[1] << 8 | p[0]);
}

// VRs whose length field has four bytes in explicit VR (PS3.5 table 7.1-1).
bool hasLongLength(const char *vr)
{
    static const char *const vrs[] = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ",
                                      "SV", "UC", "UN", "UR", "UT", "UV"};
    return std::any_of(std::begin(vrs), std::end(vrs),
                       [vr](const char *s) { return memcmp(s, vr, 2) == 0; });
}

// VRs that, with an undefined length, hold fragments instead of items of elements (PS3.5 A.4).
bool holdsFragments(const DcmTag &tag)
{
    switch (tag.getEVR()) {
    case EVR_OB:
    case EVR_OW:
    case EVR_ox:
    case EVR_px:
    case EVR_PixelData:
    case EVR_OF:
    case EVR_OD:
    case EVR_OL:
    case EVR_OV:
        return true;
    default:
        return tag == DCM_PixelData;
    }
}

} // namespace

bool scanIsVr(const char *vr)
{
    static const char vrs[] =
        "AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN "
        "UR US UT UV";
    if (vr[0] < 'A' || vr[0] > 'Z' || vr[1] < 'A' || vr[1] > 'Z') {
        return false;
    }
    for (const char *p = vrs;; p += 3) {
        if (p[0] == vr[0] && p[1] == vr[1]) {
            return true;
        }
        if (p[2] == '\0') {
            return false;
        }
    }
}

ScanEnd ScannedDataset::fail(ScanEnd end, const DcmTagKey &tag, const char *what)
{
    fault_ = what;
    fault_ += ' ';
    fault_ += tag.toString().c_str();
    return end;
}

bool ScannedDataset::isWanted(const DcmTagKey &tag) const
{
    return std::binary_search(wanted_->begin(), wanted_->end(), tag);
}

bool ScannedDataset::hasSequence(const DcmTagKey &tag) const
{
    return tag == DCM_DirectoryRecordSequence && sawDirectory_;
}

// Whether an item follows; sets bigEndian_ by it, as within UN (PS3.5 6.2.2) it is little endian
// everywhere.
bool ScannedDataset::startsWithItem(FdStream &stream)
{
    unsigned char bytes[4];
    if (stream.peek(bytes, sizeof(bytes)) < sizeof(bytes)) {
        return false;
    }
    for (const bool big : {false, true}) {
        if (get16(bytes, big) == ITEM.getGroup() && get16(bytes + 2, big) == ITEM.getElement()) {
            bigEndian_ = big;
            return true;
        }
    }
    return false;
}

// Looks at the next tag; `got` is the number of bytes there are of a header of 8.
bool ScannedDataset::readTag(FdStream &stream, DcmTagKey &tag, size_t &got)
{
    unsigned char bytes[8] = {};
    got = stream.peek(bytes, sizeof(bytes));
    tag = DcmTagKey(get16(bytes, bigEndian_), get16(bytes + 2, bigEndian_));
    return got == sizeof(bytes);
}

E_TransferSyntax ScannedDataset::detect(FdStream &stream, E_TransferSyntax declared)
{
    unsigned char bytes[8];
    if (stream.peek(bytes, sizeof(bytes)) < sizeof(bytes)) {
        return declared;
    }
    const bool isExplicit = scanIsVr(reinterpret_cast<const char *>(bytes) + 4);
    const unsigned little = get16(bytes, false), big = get16(bytes, true);
    // Data sets begin with a low group (0008); read the wrong way round it is a high one.
    if (little > 0xff && big <= 0xff) {
        return isExplicit ? EXS_BigEndianExplicit : EXS_BigEndianImplicit;
    }
    if (big > 0xff && little <= 0xff) {
        return isExplicit ? EXS_LittleEndianExplicit : EXS_LittleEndianImplicit;
    }
    return declared != EXS_Unknown ? declared : checkTransferSyntax(stream);
}

// What stands here is no element that fits: either the file is cut, or everything was read and
// padding or rubbish follows, which modalities and media leave and other readers accept.
ScanEnd ScannedDataset::judgeRest(FdStream &stream, const DcmTagKey &next, bool plausible)
{
    // Behind the pixel data little is to come, and rubbish looks like a private element more often
    // than it is one.
    const bool isPrivate = (next.getGroup() & 1) != 0 && next.hasValidGroup() &&
                           (!sawPixelData_ || next.getGroup() == 0x7fe1);
    if (plausible && next > last_ && (isPrivate || isKnown(next))) {
        return fail(ScanEnd::truncated, next, "it ends within the element");
    }
    if (elements_ == 0) {
        return stream.avail() < 8
                   ? fail(ScanEnd::truncated, next, "it ends within the element")
                   : fail(ScanEnd::malformed, next, "no data element can be read at");
    }
    // An image has its pixel data before that, and only so much is padding: the rest may be a hole
    // that a broken copy left.
    const offile_off_t rest = stream.skip(stream.producer().source().end);
    if (!sawPixelData_ && (sawRows_ || rest > MAX_PADDING)) {
        return fail(ScanEnd::truncated, last_, "nothing but rubbish follows after the element");
    }
    return ScanEnd::whole;
}

unsigned long ScannedDataset::frames()
{
    Sint32 n = 1;
    return findAndGetSint32(DCM_NumberOfFrames, n).good() && n > 1 ? static_cast<unsigned long>(n)
                                                                   : 1;
}

// Encapsulated pixel data: items of bytes up to a sequence delimiter.
ScanEnd ScannedDataset::skipFragments(FdStream &stream, const DcmTagKey &tag)
{
    unsigned long n = 0;
    for (;;) {
        DcmTagKey next;
        size_t got;
        unsigned char bytes[8];
        const bool whole = readTag(stream, next, got);
        if (got == 0 || (got < 8 && next.getGroup() == 0)) {
            // Some writers leave the delimiter out. Whole if every frame has its fragment (the
            // first item is the offset table) and the last one ends as its code stream must.
            unsigned char end[3] = {};
            const bool looked = stream.lookBack(end, sizeof(end));
            const bool marked = looked && ((end[1] == 0xff && end[2] == 0xd9) ||
                                           (end[0] == 0xff && end[1] == 0xd9));
            if (n > frames() && (marked || (runLength_ && n == frames() + 1))) {
                return ScanEnd::whole;
            }
            return fail(ScanEnd::truncated, tag, "it ends between the fragments of");
        }
        if (!whole) {
            return fail(ScanEnd::truncated, tag, "it ends within a fragment's header of");
        }
        if (next.getGroup() != 0xfffe) {
            // No delimiter, but elements go on.
            return n > 0 && next > tag
                       ? ScanEnd::whole
                       : fail(ScanEnd::malformed, tag, "something else than a fragment is in");
        }
        stream.read(bytes, sizeof(bytes));
        const Uint32 length = get32(bytes + 4, bigEndian_);
        if (next == SEQUENCE_END) {
            return ScanEnd::whole;
        }
        if (next == ITEM_END) {
            continue;
        }
        if (next != ITEM || length == UNDEFINED) {
            return fail(ScanEnd::malformed, tag, "something else than a fragment is in");
        }
        if (stream.skip(length) < static_cast<offile_off_t>(length)) {
            return fail(ScanEnd::truncated, tag, "it ends within a fragment of");
        }
        n++;
    }
}

ScanEnd ScannedDataset::enter(const DcmTagKey &tag, bool item, bool fragments, bool explicitVr,
                              offile_off_t end)
{
    if (levels_.size() >= 2 * SCAN_MAX_DEPTH) {
        return fail(ScanEnd::too_deep, tag, "sequences are nested absurdly deep in");
    }
    levels_.push_back({item, fragments, explicitVr, end});
    return ScanEnd::whole;
}

// The header of an element within an item. Where explicit VR has no VR it is implicit, as some
// writers mix them.
bool ScannedDataset::readNestedHeader(FdStream &stream, bool explicitVr, Header &header)
{
    unsigned char bytes[12];
    if (stream.read(bytes, 8) < 8) {
        return false;
    }
    header.tag = DcmTagKey(get16(bytes, bigEndian_), get16(bytes + 2, bigEndian_));
    memcpy(header.vr, bytes + 4, 2);
    header.vr[2] = '\0';
    if (header.tag.getGroup() == 0xfffe || !explicitVr || !scanIsVr(header.vr)) {
        header.vr[0] = '\0';
        header.length = get32(bytes + 4, bigEndian_);
    } else if (hasLongLength(header.vr)) {
        if (stream.read(bytes + 8, 4) < 4) {
            return false;
        }
        header.length = get32(bytes + 8, bigEndian_);
    } else {
        header.length = get16(bytes + 6, bigEndian_);
    }
    return true;
}

// One step with a sequence on top of levels_; pops it at its end. `tag` is the outermost one's, for
// messages.
ScanEnd ScannedDataset::stepInSequence(FdStream &stream, const DcmTagKey &tag)
{
    const Level level = levels_.back();
    unsigned char bytes[8];
    DcmTagKey next;
    size_t got;
    if (!readTag(stream, next, got)) {
        return fail(ScanEnd::truncated, tag, "it ends within the sequence");
    }
    if (next.getGroup() != 0xfffe) {
        // Rubbish: step over it where the length tells how far, else take it for the element that
        // follows a sequence without delimiter.
        levels_.pop_back();
        if (level.end >= 0) {
            const offile_off_t rest = level.end - stream.tell();
            if (stream.skip(rest) < rest) {
                return fail(ScanEnd::truncated, tag, "it ends within the sequence");
            }
        }
        return ScanEnd::whole;
    }
    stream.read(bytes, sizeof(bytes));
    const Uint32 length = get32(bytes + 4, bigEndian_);
    if (next == SEQUENCE_END) {
        levels_.pop_back();
        return ScanEnd::whole;
    }
    if (next != ITEM) {
        return ScanEnd::whole; // a stray item delimiter
    }
    if (level.fragments && length != UNDEFINED) {
        return stream.skip(length) < static_cast<offile_off_t>(length)
                   ? fail(ScanEnd::truncated, tag, "it ends within the sequence")
                   : ScanEnd::whole;
    }
    return enter(tag, true, false, level.explicitVr,
                 length == UNDEFINED ? -1 : stream.tell() + length);
}

// One step with an item on top of levels_.
ScanEnd ScannedDataset::stepInItem(FdStream &stream, const DcmTagKey &tag)
{
    const Level level = levels_.back();
    Header header{};
    DcmTagKey next;
    size_t got;
    if (!readTag(stream, next, got)) {
        return fail(ScanEnd::truncated, tag, "it ends within the sequence");
    }
    if (next == ITEM || next == SEQUENCE_END) {
        levels_.pop_back(); // its delimiter is missing
        return ScanEnd::whole;
    }
    if (!readNestedHeader(stream, level.explicitVr, header)) {
        return fail(ScanEnd::truncated, tag, "it ends within the sequence");
    }
    if (next == ITEM_END) {
        levels_.pop_back();
        return ScanEnd::whole;
    }
    const bool unknown = memcmp(header.vr, "UN", 2) == 0;
    if (header.length == UNDEFINED) {
        const bool fragments = header.vr[0] == 'O' || header.tag == DCM_PixelData;
        return enter(tag, false, fragments, level.explicitVr && !unknown, -1);
    }
    const offile_off_t end = stream.tell() + header.length;
    const auto holder =
        std::find_if(levels_.rbegin(), levels_.rend(), [](const Level &l) { return l.end >= 0; });
    if (holder != levels_.rend() && end > holder->end) {
        // Larger than what holds it: believe that.
        const offile_off_t rest = holder->end - stream.tell();
        levels_.resize(static_cast<size_t>(std::distance(holder, levels_.rend())) - 1);
        return rest > 0 && stream.skip(rest) < rest
                   ? fail(ScanEnd::truncated, tag, "it ends within the sequence")
                   : ScanEnd::whole;
    }
    const bool sequence = header.vr[0] != '\0'
                              ? memcmp(header.vr, "SQ", 2) == 0
                              : header.length >= 8 && DcmTag(header.tag).getEVR() == EVR_SQ;
    if (sequence) {
        return enter(tag, false, false, level.explicitVr, end);
    }
    return stream.skip(header.length) < static_cast<offile_off_t>(header.length)
               ? fail(ScanEnd::truncated, tag, "it ends within the sequence")
               : ScanEnd::whole;
}

// Steps over a sequence, looking into it only for its ends and its depth.
ScanEnd ScannedDataset::skipSequence(FdStream &stream, const DcmTagKey &tag, Uint32 length,
                                     bool explicitVr, bool asUnknown)
{
    levels_.clear();
    const offile_off_t end = length == UNDEFINED ? -1 : stream.tell() + length;
    bool explicitItems = explicitVr;
    if (asUnknown) {
        // PS3.5 6.2.2 note 3: implicit VR within UN; yet there are files with explicit VR, even in
        // implicit ones.
        unsigned char bytes[16];
        explicitItems = stream.peek(bytes, sizeof(bytes)) == sizeof(bytes) &&
                        scanIsVr(reinterpret_cast<const char *>(bytes) + 12);
    }
    enter(tag, false, false, explicitItems, end);
    while (!levels_.empty()) {
        const Level &level = levels_.back();
        if (level.end >= 0 && stream.tell() >= level.end) {
            levels_.pop_back();
            continue;
        }
        const ScanEnd result = level.item ? stepInItem(stream, tag) : stepInSequence(stream, tag);
        if (result != ScanEnd::whole) {
            return result;
        }
    }
    return ScanEnd::whole;
}

void ScannedDataset::note(const DcmTagKey &tag)
{
    elements_++;
    if (knownElements_ < SCAN_PLAUSIBLE && tag > last_ && isKnown(tag)) {
        knownElements_++;
    }
    sawDirectory_ = sawDirectory_ || tag == DCM_DirectoryRecordSequence;
    sawRows_ = sawRows_ || tag == DCM_Rows;
    sawPixelData_ = sawPixelData_ || tag == DCM_PixelData || tag == DCM_FloatPixelData ||
                    tag == DCM_DoubleFloatPixelData;
    last_ = tag > last_ ? tag : last_;
}

bool ScannedDataset::fits(FdStream &stream, offile_off_t n) const
{
    return stream.producer().source().deflated || n <= stream.avail();
}

// The bytes of an element that nobody wants and whose header leaves no doubt, 0 for others: most
// elements are such, and DCMTK would look each up in its dictionary, private ones at length.
offile_off_t ScannedDataset::plainSize(const DcmTagKey &tag, const unsigned char *head) const
{
    const char *const vr = reinterpret_cast<const char *>(head) + 4;
    if (!explicitVr_ || !scanIsVr(vr) || memcmp(vr, "SQ", 2) == 0 || memcmp(vr, "UN", 2) == 0 ||
        isWanted(tag)) {
        return 0;
    }
    if (!hasLongLength(vr)) {
        return offile_off_t(8) + get16(head + 6, bigEndian_);
    }
    const Uint32 length = get32(head + 8, bigEndian_);
    return length == UNDEFINED ? 0 : offile_off_t(12) + length;
}

// The value of an element that is wanted.
std::optional<ScanEnd> ScannedDataset::keep(FdStream &stream, DcmTag &tag, Uint32 length,
                                            E_TransferSyntax xfer)
{
    const DcmTagKey key = tag.getXTag();
    if (length == 0) {
        insertEmptyElement(tag, OFFalse);
        return std::nullopt;
    }
    const offile_off_t end = stream.tell() + length;
    // (A sequence in disguise, which DCMTK would read by recursion, is not worth having.)
    if (DcmTag(key).getEVR() != EVR_SQ) {
        readSubElement(stream, tag, length, xfer, EGL_noChange, SCAN_MAX_LOADED);
    }
    if (stream.tell() < end) {
        stream.skip(end - stream.tell());
    }
    if (stream.tell() < end) {
        return fail(ScanEnd::truncated, key, "it ends within the element");
    }
    return std::nullopt;
}

// One top-level element, its header read by DCMTK; a result if the scan ends here.
std::optional<ScanEnd> ScannedDataset::readElement(FdStream &stream, const DcmTagKey &next,
                                                   const unsigned char *head)
{
    const char *const vr = reinterpret_cast<const char *>(head) + 4;
    const bool letters = vr[0] >= 'A' && vr[0] <= 'Z' && vr[1] >= 'A' && vr[1] <= 'Z';
    const bool plausible = !explicitVr_ || scanIsVr(vr);
    // An element in implicit VR among explicit ones: seen in the wild.
    const E_TransferSyntax xfer =
        explicitVr_ && !letters && !bigEndian_ ? EXS_LittleEndianImplicit : xfer_;
    const bool implicit = DcmXfer(xfer).isImplicitVR();
    DcmTag tag;
    Uint32 length = 0, headerLength = 0;
    if (readTagAndLength(stream, xfer, tag, length, headerLength).bad() ||
        (length != UNDEFINED && !fits(stream, length))) {
        return judgeRest(stream, next, plausible);
    }
    note(next);
    if (implicit) {
        checkAndUpdateVR(*this, tag);
    }
    const DcmEVR evr = tag.getEVR();
    const bool unknown = evr == EVR_UN || evr == EVR_UNKNOWN || evr == EVR_UNKNOWN2B;
    if (length == UNDEFINED && holdsFragments(tag)) {
        const ScanEnd result = skipFragments(stream, next);
        return result == ScanEnd::whole ? std::nullopt : std::optional<ScanEnd>(result);
    }
    // Of an unknown VR it may be a sequence whose items know their ends better than its own length
    // does.
    const bool items = unknown && length >= 8 && startsWithItem(stream);
    if (length == UNDEFINED || evr == EVR_SQ || items) {
        const ScanEnd result = skipSequence(stream, next, length, !implicit, unknown);
        bigEndian_ = DcmXfer(xfer_).getByteOrder() == EBO_BigEndian;
        return result == ScanEnd::whole ? std::nullopt : std::optional<ScanEnd>(result);
    }
    if (isWanted(next)) {
        return keep(stream, tag, length, xfer);
    }
    if (stream.skip(length) < static_cast<offile_off_t>(length)) {
        return fail(ScanEnd::truncated, next, "it ends within the element");
    }
    return std::nullopt;
}

ScanEnd ScannedDataset::scan(FdStream &stream, E_TransferSyntax xfer,
                             const std::vector<DcmTagKey> &wanted, Uint16 group)
{
    xfer_ = xfer;
    explicitVr_ = DcmXfer(xfer).isExplicitVR();
    bigEndian_ = DcmXfer(xfer).getByteOrder() == EBO_BigEndian;
    wanted_ = &wanted;
    for (;;) {
        unsigned char head[12] = {};
        const size_t got = stream.peek(head, sizeof(head));
        const DcmTagKey next(get16(head, bigEndian_), get16(head + 2, bigEndian_));
        if (got == 0 || (got >= 8 && group != 0xffff && next.getGroup() != group)) {
            return ScanEnd::whole;
        }
        if (got < 4 && !sawPixelData_ && elements_ > 0 &&
            (next.getGroup() != 0 || next.getElement() != 0)) {
            return fail(ScanEnd::truncated, last_, "it ends within the element after");
        }
        if (got < 8) {
            return judgeRest(stream, next, got >= 4);
        }
        if ((next == ITEM_END || next == SEQUENCE_END) && get32(head + 4, bigEndian_) == 0 &&
            elements_ > 0) {
            stream.skip(8); // one delimiter too many
            continue;
        }
        if (next.getGroup() == 0 || next.getGroup() == 0xfffe || next.getGroup() == 0xffff) {
            return judgeRest(stream, next, false);
        }
        const offile_off_t size = plainSize(next, head);
        if (size > 0 && fits(stream, size)) {
            if (stream.skip(size) < size) {
                return fail(ScanEnd::truncated, next, "it ends within the element");
            }
            note(next);
            continue;
        }
        const std::optional<ScanEnd> end = readElement(stream, next, head);
        if (end) {
            return *end;
        }
    }
}
